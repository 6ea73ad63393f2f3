"""One update of every piece (docs/mathematics.md), in double precision."""

import torch


def group(name):
    """-> (optimizer, decays, multiple of the rate)."""
    last = name.split(".")[-1]
    if last == "table":
        return "adam", False, 5.0
    if last in ("alpha", "bias") or name in ("readout.scale", "readout.base"):
        return "adam", False, 1.0
    if name in ("embedding", "head") or "norm" in last or last == "conv":
        return "adam", True, 1.0
    return "muon", True, 1.0


def newton_schulz(u, steps, coefficients):
    x = u / (u.norm() + 1e-7)
    transposed = x.shape[0] > x.shape[1]
    x = x.T if transposed else x
    a, b, c = coefficients
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if transposed else x


def update(o, params, grads, state, number, rate):
    """Moves `params` in place; returns the norm of all gradients before the clip."""
    norm = torch.sqrt(sum((g * g).sum() for g in grads.values()))
    factor = min(1.0, o["clip"] / norm.item())
    for name, p in params.items():
        if name.endswith("router_bias"):
            continue
        kind, decays, multiple = group(name)
        decay = o["weight_decay"] if decays else 0.0
        g = grads[name] * factor
        if kind == "muon":
            muon = o["muon"]
            buf = state.setdefault(name, torch.zeros_like(p))
            buf.mul_(muon["momentum"]).add_(g)
            u = g + muon["momentum"] * buf
            step = newton_schulz(u, muon["steps"], muon["coefficients"])
            step = muon["rms_scale"] * max(p.shape) ** 0.5 * step
        else:
            adam = o["adam"]
            moments = state.setdefault(name, (torch.zeros_like(p), torch.zeros_like(p)))
            moments[0].mul_(adam["beta1"]).add_(g, alpha=1 - adam["beta1"])
            moments[1].mul_(adam["beta2"]).addcmul_(g, g, value=1 - adam["beta2"])
            first = moments[0] / (1 - adam["beta1"] ** number)
            second = moments[1] / (1 - adam["beta2"] ** number)
            step = first / (second.sqrt() + adam["eps"])
        p -= rate * multiple * (step + decay * p)
    return norm


def move_biases(params, loads, speed):
    for name, load in loads.items():
        load = load.double()
        params[name + ".router_bias"] += speed * torch.sign(load.mean() - load)
