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
Losses go to DIR/curves.json and, with --svg FILE, into a picture. Exit code 1 if anything is out of its bounds.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = {"tiny": "austen", "100m": "bpe"}
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
        self.call(name, [self.a.mneme, "train", str(self.config), f"data.train={self.corpus}", f"run.dir={folder}", f"device={device}",
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
            tail = (self.folder / f"{name}.log").read_text()[-600:]
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


def means(losses):
    return [statistics.mean(losses[i:i + LAST]) for i in range(0, len(losses), LAST)]


def compare(a, model, optimizer):
    """-> (curves, [(what, value, bound)])."""
    runs = Runs(a, model, optimizer)
    runs.mneme("start", 1, "cpu", "f32")
    start = runs.checkpoint("start", 1)
    curves = {"cpu f32": runs.mneme("cpu", FIRST, "cpu", "f32", start), "gpu f32": runs.mneme("f32", STEPS, "gpu", "f32", start),
              "gpu bf16": runs.mneme("bf16", STEPS, "gpu", "bf16", start), "again": runs.mneme("again", STEPS, "gpu", "bf16", start)}
    last = runs.checkpoint("bf16", STEPS)
    same = curves["gpu bf16"] == curves.pop("again") and same_arrays(last, runs.checkpoint("again", STEPS))
    curves["peer bf16"] = runs.peer(start)
    float_end, bf16_end = (statistics.mean(curves[k][-LAST:]) for k in ("gpu f32", "gpu bf16"))
    on_cpu = runs.mneme("back_cpu", BOTH_WAYS, "cpu", "f32", last)
    on_gpu = runs.mneme("back_gpu", BOTH_WAYS, "gpu", "f32", last)
    return curves, [
        ("GPU float against CPU float, first 20 steps", largest(curves["cpu f32"], curves["gpu f32"]), 1e-4),
        ("bf16 against float, mean of the last 20", abs(bf16_end - float_end) / float_end, 5e-3),
        ("two bf16 runs differ", 0.0 if same else 1.0, 0.0),
        ("peer against bf16, means of 20 steps", largest(means(curves["gpu bf16"]), means(curves["peer bf16"])), a.band),
        ("CPU and GPU go on from one bf16 checkpoint", largest(on_cpu, on_gpu), 1e-4)]


def svg(panels, path):
    """One panel a model and optimizer: loss over steps."""
    width, height, pad = 420, 260, 34
    colours = {"cpu f32": "#000000", "gpu f32": "#1f77b4", "gpu bf16": "#2ca02c", "peer bf16": "#d62728"}
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
            out.append(f'<polyline fill="none" stroke="{colours[name]}" points="{points}"/>')
            out.append(f'<text x="{width * i + width - 90}" y="{34 + 14 * k}" fill="{colours[name]}">{name}</text>')
    pathlib.Path(path).write_text("\n".join(out) + "\n</svg>\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--corpora", default="corpora")
    p.add_argument("--output", required=True)
    p.add_argument("--runs", type=lambda text: text.split(","), default=["tiny", "100m"])
    p.add_argument("--optimizers", type=lambda text: text.split(","), default=["adamw", "muon"])
    p.add_argument("--band", type=float, default=1e-2)
    p.add_argument("--svg")
    p.add_argument("overrides", nargs="*")
    a = p.parse_intermixed_args()
    panels, bad = {}, 0
    for model in a.runs:
        for optimizer in a.optimizers:
            title = f"{model} {optimizer}"
            panels[title], judged = compare(a, model, optimizer)
            for what, value, bound in judged:
                bad += value > bound
                print(f"{title}: {what}: {value:.2e} (bound {bound:.0e}) {'ok' if value <= bound else 'OUT OF BOUNDS'}", flush=True)
    rounded = {t: {k: [round(x, 5) for x in c] for k, c in curves.items()} for t, curves in panels.items()}
    (pathlib.Path(a.output) / "curves.json").write_text(json.dumps(rounded) + "\n")
    if a.svg:
        svg(panels, a.svg)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
