#!/usr/bin/env python3
"""One run on several devices, precisions and programs: the CPU in float, the GPU in float and twice in bf16, and
tests/bench/peer_torch.py in bf16, all from the weights and moments of one checkpoint, on the same batches.

gpu_parity.py --mneme build/mneme --corpora DIR --output DIR [--runs tiny,100m] [--optimizers adamw,muon] [key=value]...

DIR of --corpora holds the prepared corpora `austen` (bytes) and `bpe`. Runs that are finished are not repeated. For every model and
optimizer it prints, and judges:
  - GPU float against CPU float at each of the first 20 steps (1e-4 relative);
  - bf16 against GPU float: mean loss of the last 20 of 200 steps (0.5 %);
  - the two bf16 runs: every loss and every byte of the last checkpoint's arrays the same;
  - the peer against bf16: largest difference of means over 20 steps (--band, 1 %);
  - both ways: the CPU goes on from the last bf16 checkpoint as the GPU does in float (5 steps, 1e-4).
Losses go to curves.json of --output and, with --svg FILE, into a picture. Exit code 1 if anything is out of its bounds.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = {"tiny": "austen", "100m": "bpe"}
COLOURS = {"cpu f32": "#000000", "gpu f32": "#1f77b4", "gpu bf16": "#2ca02c", "peer bf16": "#d62728"}  # of a panel's curves
STEPS, FIRST, LAST, BOTH_WAYS = 200, 20, 20, 5


class Runs:
    """The runs of one model under one optimizer."""

    def __init__(self, a, model, optimizer):
        self.a, self.optimizer = a, optimizer
        self.folder = pathlib.Path(a.output).resolve() / f"{model}-{optimizer}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = ROOT / f"configs/runs/parity_{model}.yaml"
        self.corpus = pathlib.Path(a.corpora).resolve() / CORPUS[model]

    def mneme(self, name, steps, device, precision, start=None):
        """Losses of every step. start: a checkpoint to begin from."""
        folder = self.folder / name
        stage = [f"stages=[{{name: parity, steps: {steps}, init_from: {start}}}]"] if start else [f"train.steps={steps}"]
        ranks = ["mpirun", "-n", str(self.a.cpu_ranks)] if device == "cpu" and self.a.cpu_ranks > 1 else []
        self.call(name, [*ranks, self.a.mneme, "train", str(self.config), f"data.train={self.corpus}", f"run.dir={folder}", f"device={device}",
                         f"train.precision={precision}", f"optim.matrices={self.optimizer}", *stage, *self.a.overrides])
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if len(losses) != steps:
            raise SystemExit(f"{folder}: {len(losses)} losses of {steps} steps")
        return losses

    def peer(self, start):
        out = self.folder / "peer.jsonl"
        if not out.exists() or len(out.read_text().splitlines()) != STEPS + 1:
            text = self.call("peer", [sys.executable, str(ROOT / "tests/bench/peer_torch.py"), str(self.folder / "bf16/config.yaml"),
                                      "--checkpoint", str(start), "--precision", "bf16", "--graph", "--steps", str(STEPS)])
            out.write_text(text)
        return [json.loads(line)["loss"] for line in out.read_text().splitlines()[:STEPS]]

    def call(self, name, command):
        with open(self.folder / f"{name}.log", "w") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"NO_COLOR": "1"})
        if done.returncode != 0:
            log = (self.folder / f"{name}.log").read_text()
            tail = log.split("-" * 74)[0][-1500:]  # what comes after is mpirun's
            raise SystemExit(f"{self.folder.name} {name}: exit {done.returncode}\n{done.stdout[-600:]}{tail}")
        return done.stdout

    def checkpoint(self, name, step):
        return self.folder / name / "checkpoints" / f"step-{step}"


def same_arrays(one, other):
    """Checksums of the HDF5 files, as the manifests name them."""
    def sums(folder):
        files = json.loads((folder / "manifest.json").read_text())["files"]
        return {name: f["xxh3"] for name, f in files.items() if name.endswith(".h5")}
    return sums(one) == sums(other)


def largest(one, other):
    return max(abs(x - y) / abs(x) for x, y in zip(one, other))


def outcome(future):
    """None, and a word on standard error, for a run that failed."""
    try:
        return future.result()
    except SystemExit as e:
        print(e, file=sys.stderr)
        return None


def means(losses):
    return [statistics.mean(losses[i:i + LAST]) for i in range(0, len(losses), LAST)]


def compare(a, model, optimizer):
    """-> (curves, [(what, value, bound)])."""
    runs = Runs(a, model, optimizer)
    runs.mneme("start", 1, "cpu", "f32")
    start = runs.checkpoint("start", 1)
    last = runs.checkpoint("bf16", STEPS)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        one = {"cpu f32": pool.submit(runs.mneme, "cpu", FIRST, "cpu", "f32", start),
               "gpu f32": pool.submit(runs.mneme, "f32", STEPS, "gpu", "f32", start),
               "gpu bf16": pool.submit(runs.mneme, "bf16", STEPS, "gpu", "bf16", start),
               "again": pool.submit(runs.mneme, "again", STEPS, "gpu", "bf16", start)}
        concurrent.futures.wait([one["gpu bf16"]])
        one["on cpu"] = pool.submit(runs.mneme, "back_cpu", BOTH_WAYS, "cpu", "f32", last)
        one["on gpu"] = pool.submit(runs.mneme, "back_gpu", BOTH_WAYS, "gpu", "f32", last)
        one["peer bf16"] = pool.submit(runs.peer, start)
    losses = {name: outcome(future) for name, future in one.items()}

    def value(compute, *names):
        return math.inf if any(losses[n] is None for n in names) else compute(*(losses[n] for n in names))

    def end(f32, bf16):
        return largest([statistics.mean(f32[-LAST:])], [statistics.mean(bf16[-LAST:])])

    def bits(first, second):
        return 0.0 if first == second and same_arrays(last, runs.checkpoint("again", STEPS)) else 1.0

    judged = [
        ("GPU float against CPU float, first 20 steps", value(largest, "cpu f32", "gpu f32"), 1e-4),
        ("bf16 against float, mean of the last 20", value(end, "gpu f32", "gpu bf16"), 5e-3),
        ("two bf16 runs differ", value(bits, "gpu bf16", "again"), 0.0),
        ("peer against bf16, means of 20 steps", value(lambda x, y: largest(means(x), means(y)), "gpu bf16", "peer bf16"), a.band),
        ("CPU and GPU go on from one bf16 checkpoint", value(largest, "on cpu", "on gpu"), 1e-4)]
    return {name: losses[name] for name in COLOURS if losses[name]}, judged


def svg(panels, path):
    """One panel a model and optimizer: loss over steps."""
    width, height, pad = 420, 260, 34
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * len(panels)}" height="{height}" font-family="sans-serif" font-size="11">']
    for i, (title, curves) in enumerate(panels.items()):
        low = min(min(c) for c in curves.values())
        high = max(max(c) for c in curves.values())
        at = lambda step, y: (width * i + pad + (width - pad - 10) * step / STEPS,
                              height - pad - (height - 2 * pad) * (y - low) / (high - low))
        out.append(f'<text x="{width * i + pad}" y="16">{title}: loss of {STEPS} steps</text>')
        for y in (low, high):
            out.append(f'<text x="{width * i + 2}" y="{at(0, y)[1]:.0f}">{y:.2f}</text>')
        for k, (name, curve) in enumerate(curves.items()):
            points = " ".join("%.1f,%.1f" % at(s + 1, y) for s, y in enumerate(curve))
            out.append(f'<polyline fill="none" stroke="{COLOURS[name]}" points="{points}"/>')
            out.append(f'<text x="{width * i + width - 90}" y="{34 + 14 * k}" fill="{COLOURS[name]}">{name}</text>')
    pathlib.Path(path).write_text("\n".join(out) + "\n</svg>\n")


def keep(a, panels):
    """Writes what is known so far."""
    rounded = {t: {k: [round(x, 5) for x in c] for k, c in curves.items()} for t, curves in panels.items()}
    (pathlib.Path(a.output) / "curves.json").write_text(json.dumps(rounded) + "\n")
    if a.svg and panels:
        svg(panels, a.svg)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--corpora", default="corpora")
    p.add_argument("--output", required=True)
    p.add_argument("--runs", type=lambda text: text.split(","), default=["tiny", "100m"])
    p.add_argument("--optimizers", type=lambda text: text.split(","), default=["adamw", "muon"])
    p.add_argument("--band", type=float, default=1e-2)
    p.add_argument("--svg")
    p.add_argument("--cpu-ranks", type=int, default=1, help="ranks of the runs on the CPU")
    p.add_argument("--at-once", type=int, default=1, help="models and optimizers compared side by side")
    p.add_argument("overrides", nargs="*")
    a = p.parse_intermixed_args()
    titles = [(model, optimizer) for model in a.runs for optimizer in a.optimizers]
    with concurrent.futures.ThreadPoolExecutor(a.at_once) as pool:
        futures = {f"{m} {o}": pool.submit(compare, a, m, o) for m, o in titles}
        panels, bad = {}, 0
        for title, future in futures.items():
            try:
                panels[title], judged = future.result()
            except SystemExit as e:
                judged = [(str(e), 1.0, 0.0)]
            for what, value, bound in judged:
                bad += value > bound
                print(f"{title}: {what}: {value:.2e} (bound {bound:.0e}) {'ok' if value <= bound else 'OUT OF BOUNDS'}", flush=True)
            keep(a, panels)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
