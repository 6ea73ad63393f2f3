#!/usr/bin/env python3
"""A PyTorch reference of the whole model, for losses and for speed: what a careful user of torch 2.11 would run.

    peer_torch.py CONFIG [--checkpoint runs/x/checkpoints/step-1] [--precision bf16] [--compile] [--graph] [--steps N]

CONFIG is a resolved configuration (`mneme config resolve FILE`, or a run's config.yaml). From a checkpoint it starts as
`stages.0.init_from` does: values, moments and their update count, sample 0. Without one the weights are random: for speed only.
One JSON line a step (step, loss, grad_norm), then one with tokens_per_second (median of the windows) and mfu.

bf16: activations, matrices and their gradients in bf16, fp32 masters and moments, as Mneme has them. Routed experts by
torch._grouped_mm over sorted tokens; attention by SDPA, cuDNN first; --compile: each kind of block, the head, the n-gram hash and
AdamW are compiled; --graph: the whole step is one CUDA graph.
"""

import argparse
import contextlib
import json
import math
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "golden")]
import mneme_files  # noqa: E402
import oracle_hash  # noqa: E402
import oracle_model  # noqa: E402
import oracle_optim  # noqa: E402

PEAK = 989e12  # dense bf16 of one Hopper GPU


# --- the model ------------------------------------------------------------------------------------------------------


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
    res = oracle_model.sinkhorn(res, mhc["sinkhorn_iterations"], mhc["eps"])
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


# --- parameters -----------------------------------------------------------------------------------------------------


class Weight:
    """A fused tensor of equally shaped pieces, stacked by rows: fp32 master, leaf of the computation, optimizer state."""

    def __init__(self, name, shape, pieces, cols, run):
        self.name, self.shape, self.pieces = name, shape, pieces
        self.rows = math.prod(shape) // cols // len(pieces)  # of a piece
        self.cols = cols
        kind, self.decays, _ = oracle_optim.group(pieces[0])
        self.table = name.endswith(".table")
        self.muon = kind == "muon" and run.config["optim"]["matrices"] == "muon"
        self.copied = run.dtype != torch.float32 and (kind == "muon" or name in ("embedding", "head")) and not (
            name.endswith(".phi") or name == "readout.fn")

    def allocate(self, values, run):
        self.master = values.to(run.device, torch.float32).view(self.shape)
        self.leaf = (self.master.to(run.dtype) if self.copied else self.master).requires_grad_()
        if not self.copied:
            self.master = self.leaf.detach()
        self.first = torch.zeros_like(self.master)
        self.second = None if self.muon else torch.zeros_like(self.master)


def declare(m, vocabulary, hashes, run):
    """Every Weight, in no particular order."""
    d, a, moe, n, e = m["hidden"], m["mla"], m["moe"], m["mhc"]["streams"], m["engram"]
    out = []

    def add(name, shape, pieces=None, cols=None):
        out.append(Weight(name, shape, pieces or [name], cols or shape[-1], run))

    def ffn(name, width):
        add(name + ".gate_up", (2 * width, d), [name + ".gate", name + ".up"])
        add(name + ".down", (d, width))

    def hyper(name):
        if n > 1:
            add(name + ".phi", (n * d, n * n + 2 * n))
            add(name + ".alpha", (3,))
            add(name + ".bias", (n * n + 2 * n,))

    add("embedding", (vocabulary, d))
    for i in range(m["layers"]):
        b = f"blocks.{i}"
        if i in e["blocks"]:
            primes = hashes[e["blocks"].index(i)][1]
            add(f"{b}.engram.table", (sum(primes), e["d_mem"] // len(primes)))
            add(f"{b}.engram.kv", ((n + 1) * d, e["d_mem"]),
                [f"{b}.engram.key.{j}" for j in range(n)] + [f"{b}.engram.value"])
            for part in ("norm_h", "norm_k", "conv_norm"):
                add(f"{b}.engram.{part}", (n, d))
            add(f"{b}.engram.conv", (n * d, e["conv"]["kernel"]))
        width, heads, rank = a["qk_nope"] + a["qk_rope"], a["heads"], a["kv_lora_rank"]
        hyper(f"{b}.attention.hyper")
        add(f"{b}.attention.norm", (d,))
        if a["q_lora_rank"]:
            add(f"{b}.attention.q_a", (a["q_lora_rank"], d))
            add(f"{b}.attention.q_norm", (a["q_lora_rank"],))
            add(f"{b}.attention.q_b", (heads * width, a["q_lora_rank"]))
        else:
            add(f"{b}.attention.q", (heads * width, d))
        add(f"{b}.attention.kv_a", (rank + a["qk_rope"], d))
        add(f"{b}.attention.kv_norm", (rank,))
        add(f"{b}.attention.kv_b", (heads * (a["qk_nope"] + a["v_head"]), rank))
        add(f"{b}.attention.o", (d, heads * a["v_head"]))
        hyper(f"{b}.ffn.hyper")
        add(f"{b}.ffn.norm", (d,))
        if not moe["experts"] or i < m["leading_dense"]:
            ffn(f"{b}.mlp", m["dense_width"])
            continue
        f, experts = moe["expert_width"], f"{b}.moe.experts"
        add(f"{b}.moe.router", (moe["experts"], d))
        add(f"{experts}.gate_up", (moe["experts"], 2 * f, d),
            [f"{experts}.{j}.{part}" for j in range(moe["experts"]) for part in ("gate", "up")])
        add(f"{experts}.down", (moe["experts"], d, f), [f"{experts}.{j}.down" for j in range(moe["experts"])])
        if moe["shared"]:
            ffn(f"{b}.moe.shared", moe["shared"] * f)
    if n > 1 and m["mhc"]["readout"] == "learned":
        add("readout.fn", (n, n * d))
        add("readout.scale", (1,))
        add("readout.base", (n,))
    add("norm", (d,))
    if not m["tie_embeddings"]:
        add("head", (vocabulary, d))
    return out


def random_start(w, m):
    """Values without a checkpoint: the distributions of models/, another generator."""
    last = w.name.split(".")[-1]
    if "norm" in last:
        return torch.ones(w.shape)
    if last in ("conv", "base", "bias"):
        return torch.zeros(w.shape)
    if last in ("alpha", "scale"):
        return torch.full(w.shape, 0.01)
    std = m["engram"]["table"]["init_std"] if w.table else m["init_std"]
    return torch.empty(w.shape, device="cuda" if torch.cuda.is_available() else "cpu").normal_(0, std)


def flops_per_token(m, weights, length):
    """models/count.h: 6 (active + head) and the attention scores."""
    moe, a, active = m["moe"], m["mla"], 0
    for w in weights:
        if not (w.table or w.name in ("embedding", "head") or w.name.startswith("readout")):
            active += math.prod(w.shape) * moe["top_k"] // moe["experts"] if ".experts." in w.name else math.prod(w.shape)
    head = next(math.prod(w.shape) for w in weights if w.name == "embedding")
    scores = 6.0 * 0.5 * (length + 1) * m["layers"] * a["heads"] * (a["qk_nope"] + a["qk_rope"] + a["v_head"])
    return 6.0 * (active + head) + scores


# --- updates --------------------------------------------------------------------------------------------------------

RATE, BIAS1, BIAS2, CLIP = range(4)  # places in the device scalars of a step, as kernels/ops/update.h has them


def adamw(g, m, v, p, copy, s, b1, b2, eps, decay, mult):
    g = g.float() * s[CLIP]
    m.mul_(b1).add_(g, alpha=1 - b1)
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    step = (m / s[BIAS1]) / ((v / s[BIAS2]).sqrt() + eps)
    p.sub_(s[RATE] * mult * (step + decay * p))
    if copy is not None:
        copy.copy_(p)


def newton_schulz(x, steps, coefficients):
    """x [B, rows, cols], all in x's dtype (docs/mathematics.md)."""
    a, b, c = coefficients
    transposed = x.shape[-2] > x.shape[-1]
    x = x.mT if transposed else x
    for _ in range(steps):
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.mT if transposed else x


class Optimizer:
    def __init__(self, weights, run):
        self.run, self.config = run, run.config["optim"]
        self.tables = run.config["model"]["engram"]["table"]
        self.weights = weights
        self.muon = {}
        for w in weights:
            if w.muon:
                self.muon.setdefault((w.rows, w.cols), []).append(w)
        self.adamw = torch.compile(adamw, dynamic=True) if run.compiled else adamw
        self.counted = torch.tensor([float(not w.table or self.tables["in_clip_norm"]) for w in weights],
                                    dtype=torch.float64, device=run.device)
        self.scalars, self.table_scalars = (torch.zeros(4, device=run.device) for _ in range(2))

    def set_scalars(self, rate, update):
        """Host to device, outside any graph."""
        for s, o in ((self.scalars, self.config["adam"]), (self.table_scalars, self.tables)):
            s[:3].copy_(torch.tensor([rate, 1 - o["beta1"]**update, 1 - o["beta2"]**update]))

    def clip(self):
        norms = torch.stack(torch._foreach_norm([w.leaf.grad for w in self.weights], 2, dtype=torch.float32))
        total = (norms.double().square() * self.counted).sum().sqrt()
        limit = self.config["clip"]
        factor = (limit / total).clamp_max(1.0) if limit > 0 else torch.ones_like(total)
        for s in (self.scalars, self.table_scalars):
            s[CLIP].copy_(factor)
        return total

    def update(self, rows):
        total = self.clip()
        adam, decay = self.config["adam"], self.config["weight_decay"]
        for w in self.weights:
            if w.muon:
                continue
            o, s = (self.tables, self.table_scalars) if w.table else (adam, self.scalars)
            args = (o["beta1"], o["beta2"], o["eps"], o["weight_decay"] if w.table else decay if w.decays else 0.0,
                    o["lr_mult"] if w.table else 1.0)
            tensors = [w.leaf.grad, w.first, w.second, w.master, w.leaf.detach() if w.copied else None]
            if w.table and o["adam"] == "touched":
                self.touched(tensors, rows[w.name], s, args)
            else:
                self.adamw(*(t if t is None else t.view(-1) for t in tensors), s, *args)
        for group in self.muon.values():
            self.update_muon(group, decay)
        return total

    def touched(self, tensors, rows, s, args):
        g, *state = tensors[:4]
        rows = torch.unique(rows)
        parts = [t[rows] for t in state]
        adamw(g[rows], *parts, None, s, *args)
        for t, part in zip(state, parts):
            t[rows] = part

    def update_muon(self, group, decay):
        muon, s = self.config["muon"], self.scalars
        looks = []
        for w in group:
            g = w.leaf.grad.float() * s[CLIP]
            w.first.mul_(muon["momentum"]).add_(g)
            u = g + muon["momentum"] * w.first if muon["nesterov"] else w.first
            u = u.view(-1, w.rows, w.cols)
            looks.append((u / (u.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(self.run.dtype))
        moves = newton_schulz(torch.cat(looks), muon["steps"], muon["coefficients"])
        scale = muon["rms_scale"] * max(group[0].rows, group[0].cols)**0.5
        for w, x in zip(group, moves.split([len(w.pieces) for w in group])):
            w.master.sub_(s[RATE] * (scale * x.float().reshape(w.shape) + decay * w.master))
            if w.copied:
                w.leaf.detach().copy_(w.master)


# --- a run ----------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, options):
        self.config = mneme_files.read_config(options.config)
        stage = (self.config.get("stages") or [{}])[0]
        train = self.config["train"]
        self.length = stage.get("sequence_length") or train["sequence_length"]
        self.batch = stage.get("batch_sequences") or train["batch_sequences"]
        self.rate = stage.get("lr") or self.config["optim"]["lr"]
        self.schedule = stage.get("schedule") or self.config["optim"]["schedule"]
        self.steps = stage.get("steps") or train["steps"]
        self.yarn = stage.get("yarn") or {"scale": 1}
        data = dict(stage.get("data") or self.config["data"])
        if options.corpus:
            data["train"] = [options.corpus]
        self.device, self.compiled = torch.device(options.device), options.compile
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.precision]
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == torch.bfloat16  # the router: bf16 values lose nothing by it
        self.corpus = mneme_files.Corpus(data, self.length)
        self.updates = 0
        self.build(options.checkpoint)

    def build(self, checkpoint):
        m = self.model = self.config["model"]
        if m["engram"]["gate"]["branches"] != "per_branch" or not m["engram"]["conv"]["enabled"]:
            raise SystemExit("the peer knows Engram with a gate a stream and the convolution")
        vocabulary = m["vocab_size"] or self.corpus.vocabulary_size
        canonical, size, self.pad = self.corpus.canonical_map(vocabulary, m["engram"]["compression"])
        self.canonical = torch.as_tensor(canonical, device=self.device)
        hashes = self.hashes(size) if m["engram"]["blocks"] else []
        self.weights = declare(m, vocabulary, hashes, self)
        self.start(mneme_files.Checkpoint(checkpoint) if checkpoint else None)
        self.optimizer = Optimizer(self.weights, self)
        freq = oracle_model.frequencies(m["mla"], self.yarn)
        angle = torch.arange(self.length, dtype=torch.float64)[:, None] * freq
        self.turn = torch.stack((angle.cos(), angle.sin()), -1).float().to(self.device)
        mscale = 1 if self.yarn["scale"] == 1 else 0.1 * self.yarn["mscale"] * math.log(self.yarn["scale"]) + 1
        scale = mscale**2 / math.sqrt(m["mla"]["qk_nope"] + m["mla"]["qk_rope"])
        compiled = (lambda f: torch.compile(f, dynamic=False)) if self.compiled else (lambda f: f)
        kinds = {(e, f): compiled(make_block(m, scale, e, f)) for e in (False, True) for f in (False, True)}
        self.blocks = [kinds[i in m["engram"]["blocks"], bool(m["moe"]["experts"]) and i >= m["leading_dense"]]
                       for i in range(m["layers"])]
        self.head = compiled(make_head(m))
        self.addresses = compiled(make_addresses(hashes, m["engram"]["orders"], m["engram"]["heads"], self.device))

    def hashes(self, canonical_size):
        """(multipliers, primes) of every Engram layer."""
        e = self.model["engram"]
        base = e["vocab_size"]
        if len(set(base)) > 1:
            raise SystemExit("the peer knows one vocab_size for all orders")
        primes = oracle_hash.prime_tables(len(e["blocks"]), e["orders"], e["heads"], int(base[0]))
        ids = e["hash_layer_ids"] or e["blocks"]
        return [(oracle_hash.multipliers(e["hash_seed"], i, canonical_size, max(e["orders"])), t)
                for i, t in zip(ids, primes)]

    def start(self, checkpoint):
        if checkpoint is None:
            torch.manual_seed(0)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(0)
        else:
            self.updates = checkpoint.position["updates"]
        self.biases = {}
        for w in self.weights:
            if checkpoint is None:
                w.allocate(random_start(w, self.model), self)
                continue
            if w.table:
                std = self.model["engram"]["table"]["init_std"]
                value, first, second = mneme_files.table_rows(checkpoint, w.name, *w.shape, self.config["train"]["seed"], std)
            else:
                value, first, second = (
                    [checkpoint.pieces[kind][piece] for piece in w.pieces] if kind else None
                    for kind in ("value", "muon_momentum" if w.muon else "adam_m", None if w.muon else "adam_v"))
            stack = lambda parts: torch.cat([torch.as_tensor(x).flatten() for x in parts]) if isinstance(
                parts, list) else torch.as_tensor(parts)
            w.allocate(stack(value), self)
            w.first.view(-1).copy_(stack(first).flatten())
            if second is not None:
                w.second.view(-1).copy_(stack(second).flatten())
        for i in range(self.model["layers"]):
            name = f"blocks.{i}.moe.router_bias"
            if f"blocks.{i}.moe.router" in {w.name for w in self.weights}:
                bias = checkpoint.pieces["router_bias"][name] if checkpoint else [0.0] * self.model["moe"]["experts"]
                self.biases[i] = torch.as_tensor(bias, dtype=torch.float32).flatten().to(self.device)

    def forward_backward(self, batch):
        """-> (loss, loads of the MoE blocks, rows of the tables)."""
        m = self.model
        for w in self.weights:
            w.leaf.grad = None
        p = {w.name: w.leaf for w in self.weights}
        p.setdefault("head", p["embedding"])
        env = {"turn": self.turn, "doc_start": batch["doc_start"]}
        if self.corpus.reset:
            t = torch.arange(self.length, device=self.device)
            env["visible"] = ((t[None, None, :] <= t[None, :, None]) &
                              (t[None, None, :] >= batch["doc_start"][:, :, None]))[:, None]
        rows = self.addresses(self.canonical, self.pad, batch["tokens"], batch["doc_start"]) if m["engram"]["blocks"] else []
        x = F.embedding(batch["tokens"], p["embedding"])
        if m["mhc"]["streams"] > 1:
            x = x[:, :, None].expand(-1, -1, m["mhc"]["streams"], -1).contiguous()
        loads, balance, fetched = {}, 0.0, {}
        for i, block in enumerate(self.blocks):
            prefix = f"blocks.{i}."
            mine = {name.removeprefix(prefix): t for name, t in p.items() if name.startswith(prefix)}
            mine_rows = None
            if i in m["engram"]["blocks"]:
                mine_rows = fetched[prefix + "engram.table"] = rows[m["engram"]["blocks"].index(i)]
            if i in self.biases:
                mine["moe.router_bias"] = self.biases[i]
            x, load, extra = block(x, mine, env, mine_rows)
            if load is not None:
                loads[i] = load
            if extra is not None:
                balance = balance + extra
        ends = {k: p[k] for k in ("norm", "head", "readout.fn", "readout.scale", "readout.base") if k in p}
        loss = self.head(x, ends, batch["targets"]) / (batch["targets"] >= 0).sum()
        (loss + m["moe"]["sequence_balance"] / self.batch * balance).backward()
        return loss.detach(), loads, fetched

    def step(self, batch):
        loss, loads, rows = self.forward_backward(batch)
        with torch.no_grad():
            total = self.optimizer.update(rows)
            for i, load in loads.items():
                self.biases[i].add_(self.model["moe"]["bias_update"] * torch.sign(load.sum() - len(load) * load))
        return loss, total

    def load(self, number):
        names = ("tokens", "targets", "doc_start")
        parts = self.corpus.batch(number * self.batch, self.batch)
        return {k: torch.from_numpy(t).to(self.device) for k, t in zip(names, parts)}

    def scalars(self, number):
        self.updates += 1
        rate = mneme_files.learning_rate(self.schedule, self.rate, number + 1, self.steps)
        self.optimizer.set_scalars(rate, self.updates)


class Graph:
    """A step as one CUDA graph: the first batches run as they are, then one is captured and replayed."""

    def __init__(self, run):
        self.run, self.graph, self.seen = run, None, 0

    def step(self, batch):
        self.seen += 1
        if self.seen <= 3:  # compiles, and lets libraries make their plans, on the stream of the capture
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                out = self.run.step(batch)
            torch.cuda.current_stream().wait_stream(side)
            return out
        if self.graph is None:
            self.batch = {k: t.clone() for k, t in batch.items()}
            for w in self.run.weights:
                w.leaf.grad = None
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = self.run.step(self.batch)
        for k, t in batch.items():
            self.batch[k].copy_(t)
        self.graph.replay()
        return tuple(t.clone() for t in self.out)


def attention_backends(device):
    if device.type != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def sync():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(step, batches, first, window, tokens):
    """Calls step(number, batch) for the batches from `first` on -> (what it returned, tokens/s of each window)."""
    outs, windows = [], []
    for i in range(first, len(batches)):
        if (i - first) % window == 0:
            sync()
            mark = time.perf_counter()
        outs.append(step(i, batches[i]))
        if (i - first) % window == window - 1:
            sync()
            windows.append(window * tokens / (time.perf_counter() - mark))
    return outs, windows


def measure(o, step, batches, tokens, report):
    """Warm-up, then windows -> (what the steps returned, report). --paced: windows and report again and again."""
    mark = time.perf_counter()
    outs = [step(0, batches[0])]
    sync()
    seconds = time.perf_counter() - mark
    outs += [step(i, batches[i]) for i in range(1, min(o.warmup, len(batches)))]
    sync()
    if o.paced:
        print("warm", flush=True)
        for _ in sys.stdin:
            more, windows = timed(step, batches, o.warmup, o.window, tokens)
            print(report(windows, seconds, more[-1]), flush=True)
        sys.exit(0)
    more, windows = timed(step, batches, o.warmup, o.window, tokens)
    return outs + more, report(windows, seconds, (outs + more)[-1])


def profile(step):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        for _ in range(3):
            step()
        sync()
    kernels = sorted(((e.self_device_time_total, e.count, e.key) for e in p.key_averages()), reverse=True)
    print(f"device time {sum(t for t, _, _ in kernels) / 3e3:.2f} ms a step", file=sys.stderr)
    for t, count, name in kernels[:24]:
        print(f"{t / 3e3:8.3f} ms {count / 3:6.0f} x {name[:90]}", file=sys.stderr)


def add_pace(a):
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--warmup", type=int, default=6, help="steps that no window counts")
    a.add_argument("--window", type=int, default=10, help="steps of a window")
    a.add_argument("--paced", action="store_true", help="say when warm; then time the windows at each line of standard input")


def summary(windows, first, flops, parameters, last_loss):
    cuda = torch.cuda.is_available()
    rate = statistics.median(windows) if windows else 0.0
    return json.dumps({
        "tokens_per_second": rate, "mfu": rate * flops / PEAK, "windows": [round(w) for w in windows],
        "flops_per_token": flops, "parameters": parameters, "last_loss": last_loss,
        "seconds_of_first_step": round(first, 2), "torch": torch.__version__,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu"})


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("config")
    a.add_argument("--checkpoint")
    a.add_argument("--corpus", help="instead of data.train")
    a.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    a.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a.add_argument("--compile", action="store_true")
    a.add_argument("--graph", action="store_true")
    add_pace(a)
    a.add_argument("--quiet", action="store_true", help="no line a step")
    a.add_argument("--profile", action="store_true", help="the kernels of three more steps, on standard error")
    o = a.parse_args()
    run = Run(o)
    runner = Graph(run) if o.graph else run

    def step(number, batch):
        run.scalars(number)
        return runner.step(batch)

    def report(windows, seconds, last):
        return summary(windows, seconds, flops_per_token(run.model, run.weights, run.length),
                       sum(math.prod(w.shape) for w in run.weights), last[0].item())

    batches = [run.load(i) for i in range(o.steps)]
    with attention_backends(run.device):
        outs, line = measure(o, step, batches, run.batch * run.length, report)
        if o.profile:
            profile(lambda: step(o.steps, batches[-1]))
    for i, (loss, total) in enumerate([] if o.quiet else outs):
        print(json.dumps({"step": i + 1, "loss": loss.item(), "grad_norm": total.item()}))
    print(line)


if __name__ == "__main__":
    main()
