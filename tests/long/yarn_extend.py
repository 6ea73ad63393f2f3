#!/usr/bin/env python3
"""Context extension in small: configs/runs/extend_tiny.yaml, 256 tokens and then four times that by a YaRN stage.

yarn_extend.py --mneme build/mneme --corpora DIR --output DIR [--ranks 2] [key=value]...

DIR of --corpora holds the prepared corpora `austen` and `austen_held_out`. Trains the run, and beside it the same run whose
second stage has no YaRN, and prints mean held-out losses (nats a token):
  before            positions 192-255 at length 256, after the first stage
  after             positions 256-1,023 at length 1,024, after the YaRN stage; shown if <= before + 0.02
  untrained YaRN, plain extrapolation: the same positions after the first stage; shown if YaRN is better by >= 0.1
  stage without YaRN: the same positions after that stage
Exits 1 where one of the two does not hold.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--corpora", default="corpora")
    p.add_argument("--output", required=True)
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("overrides", nargs="*")
    a = p.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    corpora, output = pathlib.Path(a.corpora).resolve(), pathlib.Path(a.output).resolve()
    config = root / "configs/runs/extend_tiny.yaml"
    stages = json.loads(subprocess.run([a.mneme, "config", "resolve", config, "--json", f"data.train={corpora}/austen",
                                        *a.overrides], check=True,
                                       capture_output=True, text=True).stdout)["config"]["stages"]
    base, short, long = stages[0]["steps"], stages[0]["sequence_length"], stages[1]["sequence_length"]
    scale = long / short

    def train(name, *more):
        subprocess.run(["mpirun", "-n", str(a.ranks), a.mneme, "train", config, f"run.dir={output}/{name}",
                        f"data.train={corpora}/austen", f"train.checkpoint_every={base}",
                        f"train.milestone_every={base}", *more, *a.overrides], check=True)

    def loss(name, step, length, yarn, begin, end):
        folder = output / name / "checkpoints"
        checkpoint = folder / f"step-{step}" if step else max(folder.glob("step-*"), key=lambda f: int(f.name[5:]))
        text = subprocess.run(["mpirun", "-n", str(a.ranks), a.mneme, "evaluate", checkpoint, "--data",
                               corpora / "austen_held_out", "--sequence-length", str(length), "--yarn-scale", str(yarn),
                               "--json", "--by-position"], check=True, capture_output=True, text=True).stdout
        return statistics.mean(json.loads(text)["sets"][0]["loss_by_position"][begin:end])

    train("yarn")
    train("plain", "stages.1.yarn.scale=1")
    before = loss("yarn", base, short, 1, short * 3 // 4, short)
    after = loss("yarn", 0, long, scale, short, long)
    untrained = loss("yarn", base, long, scale, short, long)
    extrapolated = loss("yarn", base, long, 1, short, long)
    without = loss("plain", 0, long, 1, short, long)
    for name, value in (("before", before), ("after the YaRN stage", after), ("untrained YaRN", untrained),
                        ("plain extrapolation", extrapolated), ("stage without YaRN", without)):
        print(f"{name:22} {value:.4f}")
    held = after <= before + 0.02 and untrained <= extrapolated - 0.1
    print("shown" if held else "NOT shown")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
