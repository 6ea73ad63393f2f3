"""The parameters of peer_torch.py, fused as its kernels want them, and their updates (docs/mathematics.md)."""

import math
import pathlib
import sys

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
import oracle_optim  # noqa: E402


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
