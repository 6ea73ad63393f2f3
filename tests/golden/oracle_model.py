"""Forward pass of the whole model in double precision, written from the paper; autograd gives the gradients.

`m` is the `model:` section of a run file, `p` maps piece names to tensors. Matrices are [out, in], but mHC's phi [n*C, n*n+2n].
"""

import math

import torch
import torch.nn.functional as F

import oracle_hash


def rms_norm(x, w, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def swiglu(x, p, name):
    gate, up = x @ p[name + ".gate"].T, x @ p[name + ".up"].T
    return (gate * torch.sigmoid(gate) * up) @ p[name + ".down"].T


def frequencies(mla, yarn):
    dim, theta = mla["qk_rope"], mla["rope_theta"]
    freq = theta ** (-2.0 * torch.arange(dim // 2, dtype=torch.float64) / dim)
    if yarn["scale"] == 1:
        return freq

    def corr(rotations):
        return dim * math.log(yarn["original_length"] / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low, high = max(math.floor(corr(yarn["beta"])), 0), min(math.ceil(corr(yarn["alpha"])), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return freq / yarn["scale"] * ramp + freq * (1 - ramp)


def rotate(x, freq):
    """x [B, S, ..., dim]: pairs (2i, 2i+1) times exp(i * position * freq_i)."""
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * freq
    turn = torch.polar(torch.ones_like(angle), angle)
    turn = turn.reshape(1, x.shape[1], *([1] * (x.dim() - 3)), -1)
    return torch.view_as_real(z * turn).reshape(x.shape)


def attention(x, p, name, m, yarn, visible):
    a, eps = m["mla"], m["norm_eps"]
    batch, length, _ = x.shape
    heads, nope, rope, value, rank = (a[k] for k in ("heads", "qk_nope", "qk_rope", "v_head", "kv_lora_rank"))
    x = rms_norm(x, p[name + ".norm"], eps)
    if a["q_lora_rank"]:
        q = rms_norm(x @ p[name + ".q_a"].T, p[name + ".q_norm"], eps) @ p[name + ".q_b"].T
    else:
        q = x @ p[name + ".q"].T
    q = q.reshape(batch, length, heads, nope + rope)
    latent = x @ p[name + ".kv_a"].T
    kv = rms_norm(latent[..., :rank], p[name + ".kv_norm"], eps) @ p[name + ".kv_b"].T
    kv = kv.reshape(batch, length, heads, nope + value)
    freq = frequencies(a, yarn)
    q_pe, k_pe = rotate(q[..., nope:], freq), rotate(latent[..., rank:], freq)
    score = torch.einsum("bthd,bshd->bhts", q[..., :nope], kv[..., :nope])
    score = score + torch.einsum("bthd,bsd->bhts", q_pe, k_pe)
    mscale = 1 if yarn["scale"] == 1 else 0.1 * yarn["mscale"] * math.log(yarn["scale"]) + 1
    score = score * (nope + rope) ** -0.5 * mscale**2
    weight = torch.softmax(score.masked_fill(~visible[:, None], -math.inf), -1)
    out = torch.einsum("bhts,bshd->bthd", weight, kv[..., nope:]).reshape(batch, length, heads * value)
    return out @ p[name + ".o"].T


def choose(scores, bias, moe, margins):
    """Experts [T, K] by biased score. Records how far the closest decision is from a tie."""
    biased = scores.detach() + bias
    if moe["groups"] > 1:
        grouped = biased.reshape(biased.shape[0], moe["groups"], -1)
        best = 2 if moe["score"] == "sigmoid" else 1
        rank = grouped.topk(best, -1).values.sum(-1)
        order = rank.sort(dim=-1, descending=True)
        kept = moe["groups_kept"]
        margins.append((order.values[:, kept - 1] - order.values[:, kept]).min().item())
        mask = torch.zeros_like(rank).scatter(-1, order.indices[:, :kept], 1).bool()
        biased = grouped.masked_fill(~mask[..., None], -math.inf).reshape(biased.shape)
    order = biased.sort(dim=-1, descending=True, stable=True)
    k = moe["top_k"]
    gaps = order.values[:, : k] - order.values[:, 1 : k + 1]
    margins.append(gaps.min().item())
    return order.indices[:, :k]


def moe_ffn(x, p, name, m, balance, loads, margins):
    moe, batch, length = m["moe"], x.shape[0], x.shape[1]
    flat = x.reshape(batch * length, -1)
    logits = flat @ p[name + ".router"].T
    scores = torch.sigmoid(logits) if moe["score"] == "sigmoid" else torch.softmax(logits, -1)
    chosen = choose(scores, p[name + ".router_bias"], moe, margins)
    weight = scores.gather(-1, chosen)
    if moe["normalize"]:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    weight = weight * moe["route_scale"]
    out = swiglu(flat, p, name + ".shared") if moe["shared"] else torch.zeros_like(flat)
    for e in range(moe["experts"]):
        token, slot = (chosen == e).nonzero(as_tuple=True)
        y = swiglu(flat[token], p, f"{name}.experts.{e}") * weight[token, slot, None]
        out = out.index_add(0, token, y)
    hits = F.one_hot(chosen, moe["experts"]).sum(1)
    loads[name] = hits.sum(0)
    f = hits.reshape(batch, length, -1).sum(1).double() * moe["experts"] / (moe["top_k"] * length)
    share = (scores / scores.sum(-1, keepdim=True)).reshape(batch, length, -1).mean(1)
    balance.append(moe["sequence_balance"] * (f * share).sum(-1).mean())
    return out.reshape(x.shape)


def sinkhorn(logits, iterations, eps):
    """logits [..., i, j], i = output stream. Columns (over i) first, rows (over j) last."""
    h = torch.softmax(logits, -2) + eps
    h = h / (h.sum(-1, keepdim=True) + eps)
    for _ in range(iterations - 1):
        h = h / (h.sum(-2, keepdim=True) + eps)
        h = h / (h.sum(-1, keepdim=True) + eps)
    return h


def hyper_connected(x, p, name, m, inner):
    """x [B, S, n, C] around inner: [B, S, C] -> [B, S, C]; with one stream the plain residual."""
    n, c = x.shape[-2:]
    if n == 1:
        return x + inner(x[..., 0, :])[..., None, :]
    mhc = m["mhc"]
    flat = x.reshape(*x.shape[:-2], n * c)
    r = torch.sqrt((flat * flat).mean(-1, keepdim=True) + m["norm_eps"])
    mix = flat @ p[name + ".phi"] / r
    alpha, b = p[name + ".alpha"], p[name + ".bias"]
    pre = torch.sigmoid(alpha[0] * mix[..., :n] + b[:n]) + mhc["eps"]
    post = mhc["post_mult"] * torch.sigmoid(alpha[1] * mix[..., n : 2 * n] + b[n : 2 * n])
    res = (alpha[2] * mix[..., 2 * n :] + b[2 * n :]).reshape(*x.shape[:-2], n, n)
    res = sinkhorn(res, mhc["sinkhorn_iterations"], mhc["eps"])
    y = inner((pre[..., None] * x).sum(-2))
    return res @ x + post[..., None] * y[..., None, :]


def read_out(x, p, m):
    n, c = x.shape[-2:]
    if n == 1:
        return x[..., 0, :]
    flat = x.reshape(*x.shape[:-2], n * c)
    r = torch.sqrt((flat * flat).mean(-1, keepdim=True) + m["norm_eps"])
    logit = flat / r @ p["readout.fn"].T
    w = torch.sigmoid(p["readout.scale"] * logit + p["readout.base"]) + m["mhc"]["eps"]
    return (w[..., None] * x).sum(-2)


def engram(x, p, name, m, rows, doc_start, margins):
    """x [B, S, M, D] -> what is added to it. rows [B, S, heads of all orders]."""
    e, width = m["engram"], x.shape[-1]
    gate, conv = e["gate"], e["conv"]
    memory = p[name + ".table"][rows].reshape(*x.shape[:2], -1)
    value = memory @ p[name + ".value"].T
    keys = torch.stack([memory @ p[f"{name}.key.{i}"].T for i in range(x.shape[-2])], -2)
    query = rms_norm(x, p[name + ".norm_h"], gate["norm_eps"])
    s = (query * rms_norm(keys, p[name + ".norm_k"], gate["norm_eps"])).sum(-1) / math.sqrt(width)
    if gate["transform"] == "signed_sqrt":
        margins.append(s.abs().min().item() - gate["clamp"])
    g = torch.sign(s) * torch.sqrt(s.abs().clamp_min(gate["clamp"])) if gate["transform"] == "signed_sqrt" else s
    u = torch.sigmoid(g)[..., None] * value[..., None, :]
    normed = rms_norm(u, p[name + ".conv_norm"], conv["norm_eps"])
    taps = p[name + ".conv"].reshape(x.shape[-2], width, conv["kernel"])
    dilation = conv["dilation"] or max(e["orders"])
    position = torch.arange(x.shape[1])
    c = torch.zeros_like(u)
    for j in range(conv["kernel"]):
        back = dilation * (conv["kernel"] - 1 - j)
        shifted = F.pad(normed, (0, 0, 0, 0, back, 0))[:, : x.shape[1]]
        inside = position - back >= doc_start
        c = c + taps[..., j] * shifted * inside[..., None, None]
    return u + c * torch.sigmoid(c)


def make_hashes(m, canonical_size):
    e = m["engram"]
    ids = e.get("hash_layer_ids") or e["blocks"]
    primes = oracle_hash.prime_tables(len(e["blocks"]), e["orders"], e["heads"], e["vocab_size"][0])
    return [(oracle_hash.multipliers(e["hash_seed"], i, canonical_size, max(e["orders"])), t)
            for i, t in zip(ids, primes)]


def forward(m, p, batch, yarn):
    """Returns a dict: loss (mean over counted targets), balance (weighted), logits [B, S, V], loads, margin."""
    ids, doc_start, canonical = batch["tokens"], batch["doc_start"], batch["canonical"]
    length = ids.shape[1]
    t = torch.arange(length)
    visible = (t[None, None, :] <= t[None, :, None]) & (t[None, None, :] >= doc_start[:, :, None])
    x = p["embedding"][ids][..., None, :].repeat(1, 1, m["mhc"]["streams"], 1)
    hashes = make_hashes(m, batch["canonical_size"])
    balance, loads, margins, all_rows = [], {}, [], []
    for block in range(m["layers"]):
        name = f"blocks.{block}"
        if block in m["engram"]["blocks"]:
            factors, primes = hashes[m["engram"]["blocks"].index(block)]
            rows = torch.from_numpy(oracle_hash.addresses(
                ids.numpy(), canonical.numpy(), batch["pad"], doc_start.numpy(), m["engram"]["orders"],
                m["engram"]["heads"], factors, primes))
            all_rows.append(rows)
            x = x + engram(x, p, name + ".engram", m, rows, doc_start, margins)
        x = hyper_connected(x, p, name + ".attention.hyper", m,
                            lambda h: attention(h, p, name + ".attention", m, yarn, visible))

        def ffn(h):
            h = rms_norm(h, p[name + ".ffn.norm"], m["norm_eps"])
            if block < m["leading_dense"] or not m["moe"]["experts"]:
                return swiglu(h, p, name + ".mlp")
            return moe_ffn(h, p, name + ".moe", m, balance, loads, margins)

        x = hyper_connected(x, p, name + ".ffn.hyper", m, ffn)
    h = rms_norm(read_out(x, p, m), p["norm"], m["norm_eps"])
    logits = h @ p["embedding" if m["tie_embeddings"] else "head"].T
    targets = batch["targets"]
    counted = targets >= 0
    losses = torch.logsumexp(logits, -1) - logits.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return {"loss": (losses * counted).sum() / counted.sum(), "balance": sum(balance), "logits": logits,
            "loads": loads, "margin": min(margins), "rows": all_rows}
