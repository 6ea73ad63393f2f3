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
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import mneme_files
from peer_model import make_addresses, make_block, make_head, oracle_model
from peer_weights import Optimizer, declare, flops_per_token, random_start

import oracle_hash  # of tests/golden, where peer_model looks too

PEAK = 989e12  # dense bf16 of one Hopper GPU


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
