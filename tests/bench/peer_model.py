"""The forward pass of peer_torch.py: the definitions of docs/mathematics.md as a careful user of PyTorch writes them for speed.

`m` is the `model:` section of a configuration, `p` maps a block's own names to tensors. What tests/golden defines without thought of
speed is taken from there.
"""

import math
import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
import oracle_model  # noqa: E402


def norm(x, w, eps):
    return oracle_model.rms_norm(x.float(), w, eps).to(x.dtype)


def swiglu(x, gate_up, down):
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def rotate(x, turn):
    """x [B, T, H, R]: pairs (2i, 2i + 1) times cos + i sin; turn [T, R/2, 2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn[:, None, :, 0], turn[:, None, :, 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def attention(x, p, m, scale, env):
    a, eps, (batch, length, _) = m["mla"], m["norm_eps"], x.shape
    heads, nope, rope, value, rank = (a[k] for k in ("heads", "qk_nope", "qk_rope", "v_head", "kv_lora_rank"))
    x = norm(x, p["attention.norm"], eps)
    if a["q_lora_rank"]:
        q = F.linear(norm(F.linear(x, p["attention.q_a"]), p["attention.q_norm"], eps), p["attention.q_b"])
    else:
        q = F.linear(x, p["attention.q"])
    q = q.view(batch, length, heads, nope + rope)
    q = torch.cat((q[..., :nope], rotate(q[..., nope:], env["turn"])), -1)
    latent = F.linear(x, p["attention.kv_a"])
    kv = F.linear(norm(latent[..., :rank], p["attention.kv_norm"], eps), p["attention.kv_b"])
    kv = kv.view(batch, length, heads, nope + value)
    k_pe = rotate(latent[..., None, rank:], env["turn"]).expand(-1, -1, heads, -1)
    k = torch.cat((kv[..., :nope], k_pe), -1)
    q, k, v = (t.transpose(1, 2) for t in (q, k, kv[..., nope:]))
    mask = env.get("visible")
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return F.linear(y.transpose(1, 2).flatten(2), p["attention.o"])


class Permute(torch.autograd.Function):
    """x [T, D] -> a row for each of a token's K experts, in expert order: gathers on both ways, nothing scattered."""

    @staticmethod
    def forward(ctx, x, order, place, k):
        ctx.save_for_backward(place)
        return x[order // k]

    @staticmethod
    def backward(ctx, d):
        (place,) = ctx.saved_tensors
        return d[place].sum(1), None, None, None


class Combine(torch.autograd.Function):
    """y [T K, D] in expert order -> the sum over a token's experts [T, D]; place [T, K]."""

    @staticmethod
    def forward(ctx, y, order, place):
        ctx.save_for_backward(order)
        ctx.k = place.shape[1]
        return y[place].sum(1)

    @staticmethod
    def backward(ctx, d):
        (order,) = ctx.saved_tensors
        return d[order // ctx.k], None, None


def route(x, p, moe):
    """scores [T, E] in float, experts [T, K], weights [T, K]."""
    logits = x.float() @ p["moe.router"].float().T
    scores = torch.sigmoid(logits) if moe["score"] == "sigmoid" else torch.softmax(logits, -1)
    biased = scores.detach() + p["moe.router_bias"]
    if moe["groups"] > 1:
        grouped = biased.unflatten(-1, (moe["groups"], -1))
        rank = grouped.topk(2 if moe["score"] == "sigmoid" else 1, -1).values.sum(-1)
        kept = torch.zeros_like(rank).scatter(-1, rank.topk(moe["groups_kept"], -1).indices, 1)
        biased = grouped.masked_fill(kept[..., None] == 0, -math.inf).flatten(-2)
    experts = biased.topk(moe["top_k"], -1).indices
    weights = scores.gather(-1, experts)
    if moe["normalize"]:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return scores, experts, weights * moe["route_scale"]


def moe_ffn(x, p, moe, batch):
    """-> y, load [E], Σ over rows of f · P."""
    scores, experts, weights = route(x, p, moe)
    count, k = moe["experts"], moe["top_k"]
    flat = experts.flatten()
    order = torch.argsort(flat.to(torch.int16), stable=True)
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device)).view(-1, k)
    hits = (flat[:, None] == torch.arange(count, device=flat.device)).view(batch, -1, count).sum(1)
    load = hits.sum(0)
    offsets = load.cumsum(0).to(torch.int32)
    rows = Permute.apply(x, order, place, k)
    gate, up = torch._grouped_mm(rows, p["moe.experts.gate_up"].transpose(-2, -1), offs=offsets).chunk(2, -1)
    weight = weights.flatten()[order][:, None]
    h = (F.silu(gate.float()) * up.float() * weight).to(x.dtype)
    y = Combine.apply(torch._grouped_mm(h, p["moe.experts.down"].transpose(-2, -1), offs=offsets), order, place)
    if moe["shared"]:
        y = y + swiglu(x, p["moe.shared.gate_up"], p["moe.shared.down"])
    if not moe["sequence_balance"]:
        return y, load, None
    share = (scores / scores.sum(-1, keepdim=True)).view(batch, -1, count).mean(1)
    return y, load, (hits * (count / (k * hits[0].sum() / k)) * share).sum()


def sinkhorn(logits, iterations, eps):
    if not logits.is_cuda or logits.shape[-1] not in (2, 4, 8):
        return oracle_model.sinkhorn(logits, iterations, eps)
    import peer_sinkhorn
    return peer_sinkhorn.sinkhorn(logits, iterations, eps)


def hyper_connected(x, p, name, m, inner):
    """x [B, T, n, D] around inner; with one stream x [B, T, D] and the plain residual."""
    n, mhc = m["mhc"]["streams"], m["mhc"]
    if n == 1:
        return x + inner(x)
    flat = x.flatten(-2)
    r = torch.sqrt(flat.float().square().mean(-1, keepdim=True) + m["norm_eps"])
    mix = (flat @ p[name + ".phi"].to(x.dtype)).float() / r
    alpha, b = p[name + ".alpha"], p[name + ".bias"]
    pre = torch.sigmoid(alpha[0] * mix[..., :n] + b[:n]) + mhc["eps"]
    post = mhc["post_mult"] * torch.sigmoid(alpha[1] * mix[..., n : 2 * n] + b[n : 2 * n])
    res = (alpha[2] * mix[..., 2 * n :] + b[2 * n :]).unflatten(-1, (n, n))
    res = sinkhorn(res, mhc["sinkhorn_iterations"], mhc["eps"])
    y = inner((pre[..., None] * x.float()).sum(-2).to(x.dtype))
    mixed = (res[..., None] * x[..., None, :, :].float()).sum(-2)
    return (mixed + post[..., None] * y[..., None, :].float()).to(x.dtype)


def read_out(x, p, m):
    n, how = m["mhc"]["streams"], m["mhc"]["readout"]
    if n == 1:
        return x
    if how != "learned":
        return (x.float().mean(-2) if how == "mean" else x.float().sum(-2)).to(x.dtype)
    flat = x.flatten(-2)
    r = torch.sqrt(flat.float().square().mean(-1, keepdim=True) + m["norm_eps"])
    logit = (flat @ p["readout.fn"].to(x.dtype).T).float() / r
    w = torch.sigmoid(p["readout.scale"] * logit + p["readout.base"]) + m["mhc"]["eps"]
    return (w[..., None] * x.float()).sum(-2).to(x.dtype)


def engram(x, p, m, rows, doc_start):
    """What is added to x [B, T, M, D] (or [B, T, D]); rows [B, T, heads of all orders]."""
    e, gate, conv = m["engram"], m["engram"]["gate"], m["engram"]["conv"]
    streams = x if m["mhc"]["streams"] > 1 else x[:, :, None]
    branches, width, length = streams.shape[2], x.shape[-1], x.shape[1]
    memory = F.embedding(rows, p["engram.table"]).flatten(2).to(x.dtype)
    kv = F.linear(memory, p["engram.kv"]).float().unflatten(-1, (branches + 1, width))
    query = oracle_model.rms_norm(streams.float(), p["engram.norm_h"], gate["norm_eps"])
    key = oracle_model.rms_norm(kv[..., :branches, :], p["engram.norm_k"], gate["norm_eps"])
    s = (query * key).sum(-1) / math.sqrt(width)
    if gate["transform"] == "signed_sqrt":
        s = torch.sign(s) * torch.sqrt(s.abs().clamp_min(gate["clamp"]))
    u = (torch.sigmoid(s)[..., None] * kv[..., branches:, :]).to(x.dtype)
    normed = norm(u, p["engram.conv_norm"], conv["norm_eps"])
    taps = p["engram.conv"].view(branches, width, conv["kernel"])
    dilation = conv["dilation"] or max(e["orders"])
    position = torch.arange(length, device=x.device)
    c = 0
    for j in range(conv["kernel"]):
        back = dilation * (conv["kernel"] - 1 - j)
        shifted = F.pad(normed, (0, 0, 0, 0, back, 0))[:, :length].float()
        c = c + taps[..., j] * shifted * (position - back >= doc_start)[..., None, None]
    return (u.float() + F.silu(c)).to(x.dtype).view(x.shape)


def make_block(m, scale, has_engram, is_moe):
    def block(x, p, env, rows):
        load = balance = None
        if has_engram:
            x = x + engram(x, p, m, rows, env["doc_start"])
        x = hyper_connected(x, p, "attention.hyper", m, lambda h: attention(h, p, m, scale, env))

        def ffn(h):
            nonlocal load, balance
            h = norm(h, p["ffn.norm"], m["norm_eps"])
            if not is_moe:
                return swiglu(h, p["mlp.gate_up"], p["mlp.down"])
            y, load, balance = moe_ffn(h.flatten(0, 1), p, m["moe"], h.shape[0])
            return y.view(h.shape)

        x = hyper_connected(x, p, "ffn.hyper", m, ffn)
        return x, load, balance

    return block


def make_head(m):
    def head(x, p, targets):
        h = norm(read_out(x, p, m), p["norm"], m["norm_eps"])
        logits = F.linear(h.flatten(0, 1), p["head"])
        return F.cross_entropy(logits.float(), targets.flatten(), ignore_index=-1, reduction="sum")

    return head


def make_addresses(hashes, orders, heads, device):
    """Rows of every Engram layer [B, T, orders · heads] of a batch, in whole numbers of 63 bits."""
    layers = [(f, torch.tensor(t, device=device),
               torch.tensor([sum(t[:i]) for i in range(len(t))], device=device)) for f, t in hashes]

    def addresses(canonical, pad, tokens, doc_start):
        ids = canonical[tokens]
        position = torch.arange(tokens.shape[1], device=tokens.device)
        past = [torch.where(position - back >= doc_start, F.pad(ids, (back, 0))[:, : ids.shape[1]], pad)
                for back in range(max(orders))]
        out = []
        for factors, primes, offsets in layers:
            mixes, mix = [], torch.zeros_like(ids)
            for back in range(max(orders)):
                mix = mix ^ past[back] * factors[back]
                if back + 1 in orders:
                    mixes.append(mix)
            mixes = torch.stack(mixes, -1).repeat_interleave(heads, -1)
            out.append(mixes % primes + offsets)
        return out

    return addresses
