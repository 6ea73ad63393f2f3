#!/usr/bin/env python3
"""Memory on against memory off at equal total and active parameters: configs/runs/memory_{on,off}.yaml over several seeds.

memory_gain.py --mneme build/mneme --corpora DIR --output DIR [--seeds 0,1,2] [--ranks 2] [--at-once 1] [key=value]...

DIR of --corpora holds the prepared corpora `bpe` and `bpe_held_out`. Both runs of a seed share data order and equally named
initial values. Runs that are finished are not repeated; unfinished ones resume. Prints parameters of both sides, the
held-out loss of every run and the paired difference with its 95 % interval (Student's t).
"""
import argparse
import concurrent.futures
import json
import math
import pathlib
import statistics
import subprocess

# 97.5 % quantile of Student's t by degrees of freedom.
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--corpora", default="corpora")
    p.add_argument("--output", required=True)
    p.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--at-once", type=int, default=1)
    p.add_argument("overrides", nargs="*")
    a = p.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    corpora, output = pathlib.Path(a.corpora).resolve(), pathlib.Path(a.output).resolve()
    data = [f"data.train={corpora}/bpe", f"evaluate.sets=[{{name: held_out, data: {corpora}/bpe_held_out}}]"]
    output.mkdir(parents=True, exist_ok=True)

    def run(side, seed):
        folder = output / f"{side}-seed{seed}"
        command = ["mpirun", "-n", str(a.ranks), a.mneme, "train", str(root / f"configs/runs/memory_{side}.yaml"),
                   f"run.dir={folder}", f"train.seed={seed}", f"data.seed={seed}", *data, *a.overrides]
        with open(output / f"{side}-seed{seed}.log", "a") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            raise SystemExit(f"{side} seed {seed}: exit {code}, see {output}/{side}-seed{seed}.log")
        return json.loads((folder / "result.json").read_text())["validation_loss"]

    for side in ("off", "on"):
        text = subprocess.run([a.mneme, "config", "resolve", str(root / f"configs/runs/memory_{side}.yaml"), "--json",
                               *data], check=True, capture_output=True, text=True).stdout
        print(side, "parameters", json.dumps(json.loads(text)["paper"]), flush=True)
    cells = [(side, seed) for seed in a.seeds for side in ("off", "on")]
    with concurrent.futures.ThreadPoolExecutor(a.at_once) as pool:
        loss = dict(zip(cells, pool.map(lambda cell: run(*cell), cells)))
    gains = [loss["off", s] - loss["on", s] for s in a.seeds]
    for s in a.seeds:
        print(f"seed {s}: off {loss['off', s]:.4f}  on {loss['on', s]:.4f}  gain {loss['off', s] - loss['on', s]:+.4f}")
    mean = statistics.mean(gains)
    if len(gains) > 1:
        half = T975.get(len(gains) - 1, 1.96) * statistics.stdev(gains) / math.sqrt(len(gains))
        print(f"gain of memory {mean:+.4f} nats a token, 95 % interval {mean - half:+.4f} to {mean + half:+.4f}")


if __name__ == "__main__":
    main()
