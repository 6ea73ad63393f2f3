#!/usr/bin/env python3
"""One run on 1, 2, 4, … GPUs, data parallel, and with experts and rows spread over all.

multi_gpu.py --mneme build/mneme --corpora DIR --output DIR [--ranks 1,2,4] [--runs tiny,100m] [key=value]...

DIR of --corpora holds the prepared corpora `austen` (bytes) and `bpe`. For every model and layout it prints, and judges:
  - float: losses of 20 steps against one GPU (1e-4 relative);
  - bf16: mean loss of the last 20 of 200 steps against one GPU (0.3 %);
  - two bf16 runs of one layout: every loss and every byte of the last checkpoint's arrays the same;
  - a checkpoint of all GPUs goes on on one, and one of one on all (5 steps, 1e-4).
Runs that are finished are not repeated. Exit code 1 if anything is out of its bounds.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gpu_parity import BOTH_WAYS, CORPUS, FIRST, LAST, ROOT, STEPS, largest, same_arrays  # noqa: E402


class Runs:
    """The runs of one model."""

    def __init__(self, a, model):
        self.a, self.model = a, model
        self.folder = pathlib.Path(a.output).resolve() / model
        self.folder.mkdir(parents=True, exist_ok=True)

    def train(self, name, layout, precision, steps, start=None):
        """Losses of every step; None, and a word, where the run failed. layout: ranks, size of both axes."""
        ranks, axis = layout
        folder = self.folder / name
        corpus = pathlib.Path(self.a.corpora).resolve() / CORPUS[self.model]
        stage = [f"stages=[{{name: parity, steps: {steps}, init_from: {start}}}]"] if start else [f"train.steps={steps}"]
        mpirun = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
        done = subprocess.run([*mpirun, self.a.mneme, "train", str(ROOT / f"configs/runs/parity_{self.model}.yaml"),
                               f"data.train={corpus}", f"run.dir={folder}", "device=gpu", f"train.precision={precision}",
                               f"parallel.expert={axis}", f"parallel.memory={axis}", *stage, *self.a.overrides],
                              capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
        (self.folder / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            print(f"{self.model} {name}: exit {done.returncode}\n{(done.stdout + done.stderr)[-800:]}", flush=True)
            return None
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return losses if len(losses) == steps else None

    def checkpoint(self, name, steps):
        return self.folder / name / "checkpoints" / f"step-{steps}"


def name_of(layout):
    return f"{layout[0]} GPUs, experts and rows over {layout[1]}"


def compare(runs, layouts):
    """Yields (what, value or None, bound)."""
    one = (1, 1)
    f32 = runs.train("f32-1-1", one, "f32", FIRST)
    bf16 = runs.train("bf16-1-1", one, "bf16", STEPS)
    for layout in layouts:
        tag = "%d-%d" % layout
        got = runs.train(f"f32-{tag}", layout, "f32", FIRST)
        yield f"{name_of(layout)}: float, {FIRST} steps", largest(f32, got) if f32 and got else None, 1e-4
        got = runs.train(f"bf16-{tag}", layout, "bf16", STEPS)
        value = largest([statistics.mean(bf16[-LAST:])], [statistics.mean(got[-LAST:])]) if bf16 and got else None
        yield f"{name_of(layout)}: bf16, mean of the last {LAST} of {STEPS}", value, 3e-3
        again = runs.train(f"again-{tag}", layout, "bf16", STEPS)
        value = None
        if got and again:
            same = got == again and same_arrays(runs.checkpoint(f"bf16-{tag}", STEPS), runs.checkpoint(f"again-{tag}", STEPS))
            value = 0.0 if same else 1.0
        yield f"{name_of(layout)}: two runs differ", value, 0.0
    last = layouts[-1]
    for source, text in ((one, "from one GPU"), (last, "from all")):
        start = runs.checkpoint("bf16-%d-%d" % source, STEPS)
        both = [runs.train("on%d-from%d" % (to[0], source[0]), to, "f32", BOTH_WAYS, start) for to in (one, last)]
        yield f"{text}: one GPU and {last[0]} go on alike", largest(*both) if all(both) else None, 1e-4


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--corpora", default="corpora")
    p.add_argument("--output", required=True)
    p.add_argument("--ranks", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    p.add_argument("--runs", type=lambda text: text.split(","), default=["tiny"])
    p.add_argument("overrides", nargs="*")
    a = p.parse_intermixed_args()
    layouts = [(n, e) for n in a.ranks if n > 1 for e in (1, n)]
    bad = 0
    for model in a.runs:
        for what, value, bound in compare(Runs(a, model), layouts):
            fine = value is not None and value <= bound
            bad += not fine
            told = "no run" if value is None else f"{value:.2e}"
            print(f"{model}: {what}: {told} (bound {bound:.0e}) {'ok' if fine else 'OUT OF BOUNDS'}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
