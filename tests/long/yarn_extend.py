#!/usr/bin/env python3
"""Context extension: configs/runs/extend_tiny.yaml, 256 tokens and then four times that by a YaRN stage; or another run.

yarn_extend.py --mneme build/mneme --corpora DIR --output DIR [--ranks 2] [--config FILE] [--text austen] [--quick]
               [key=value]...

DIR of --corpora holds the prepared corpora of --text: `austen` and `austen_held_out`. Trains the run, and beside it (not with
--quick) the same run whose second stage has no YaRN, and prints tokens a second and training loss of each stage, and mean
held-out losses (nats a token; positions of the tiny run):
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
    p.add_argument("--config", default="configs/runs/extend_tiny.yaml")
    p.add_argument("--text", default="austen")
    p.add_argument("--quick", action="store_true")
    p.add_argument("overrides", nargs="*")
    a = p.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    corpora, output = pathlib.Path(a.corpora).resolve(), pathlib.Path(a.output).resolve()
    config = root / a.config
    text = corpora / a.text
    ranks = ["mpirun", "-n", str(a.ranks)] if a.ranks > 1 else []
    stages = json.loads(subprocess.run([a.mneme, "config", "resolve", config, "--json", f"data.train={text}",
                                        *a.overrides], check=True,
                                       capture_output=True, text=True).stdout)["config"]["stages"]
    base, short, long = stages[0]["steps"], stages[0]["sequence_length"], stages[1]["sequence_length"]
    scale = stages[1]["yarn"]["scale"]

    def train(name, *more):
        subprocess.run([*ranks, a.mneme, "train", config, f"run.dir={output}/{name}",
                        f"data.train={text}", f"train.checkpoint_every={base}",
                        f"train.milestone_every={base}", *more, *a.overrides], check=True)

    def report(name, stages):
        steps = [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]
        steps = [s for s in steps if "tokens_per_second" in s]
        first = 0
        for stage in stages:
            part = steps[first:first + stage["steps"]]
            first += stage["steps"]
            speed = statistics.median(s["tokens_per_second"] for s in part[len(part) // 2:])
            print(f"{stage['name']:22} {len(part)} steps of {stage['batch_sequences']} x {stage['sequence_length']} tokens: "
                  f"loss {part[0]['loss']:.4f} to {part[-1]['loss']:.4f}, {speed:,.0f} tokens/s", flush=True)
        peak = json.loads((output / name / "result.json").read_text())["peak_memory_bytes"]
        print(f"{'peak memory':22} {peak / 2**30:.2f} GiB", flush=True)

    def loss(name, step, length, yarn, begin, end):
        folder = output / name / "checkpoints"
        checkpoint = folder / f"step-{step}" if step else max(folder.glob("step-*"), key=lambda f: int(f.name[5:]))
        scored = subprocess.run([*ranks, a.mneme, "evaluate", checkpoint, "--data",
                               corpora / f"{a.text}_held_out", "--sequence-length", str(length), "--yarn-scale", str(yarn),
                               "--json", "--by-position"], check=True, capture_output=True, text=True).stdout
        return statistics.mean(json.loads(scored)["sets"][0]["loss_by_position"][begin:end])

    train("yarn")
    report("yarn", stages)
    if not a.quick:
        train("plain", "stages.1.yarn.scale=1")
    before = loss("yarn", base, short, 1, short * 3 // 4, short)
    after = loss("yarn", 0, long, scale, short, long)
    untrained = loss("yarn", base, long, scale, short, long)
    extrapolated = loss("yarn", base, long, 1, short, long)
    without = None if a.quick else loss("plain", 0, long, 1, short, long)
    for name, value in (("before", before), ("after the YaRN stage", after), ("untrained YaRN", untrained),
                        ("plain extrapolation", extrapolated), ("stage without YaRN", without)):
        if value is not None:
            print(f"{name:22} {value:.4f}")
    held = after <= before + 0.02 and untrained <= extrapolated - 0.1
    print("shown" if held else "NOT shown")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
