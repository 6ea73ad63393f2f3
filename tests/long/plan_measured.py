#!/usr/bin/env python3
"""What `mneme plan` and the trainer predict against what runs take, on one CPU thread (docs/results.md).

  tests/long/plan_measured.py build FOLDER

Prepares two novels in FOLDER, trains 16 small configurations, and prints a line each: predicted and measured peak of
memory, predicted and measured seconds of a step. The measured seconds are CPU seconds of fifteen steps less those of three,
so that neither start nor end, nor others on the machine, count. None of the configurations is one that the rates of
configs/devices/cpu.yaml were fitted on. Exit 1 where one is off by more than 5 % of memory or 15 % of time. About ten minutes.
"""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

ROWS = "model.engram.table.store=resident"
FEW, MANY = 3, 15
REPEATS = 3  # the least counts: others on the machine only ever add
RUNS = [
    ("runs/tiny.yaml", [ROWS, "model.hidden=64", "model.mhc.streams=3"]),
    ("runs/tiny.yaml", [ROWS, "model.layers=5", "train.sequence_length=256"]),
    ("runs/tiny.yaml", [ROWS, "model.hidden=160", "model.mhc.streams=1"]),
    ("runs/tiny.yaml", ["model.engram.blocks=[]", "model.hidden=128", "model.mhc.streams=4"]),
    ("runs/tiny.yaml", [ROWS, "train.recompute=[all]", "model.hidden=96"]),
    ("runs/tiny.yaml", [ROWS, "optim.matrices=adamw", "model.moe.experts=32", "model.hidden=96"]),
    ("runs/tiny.yaml", ["model.engram.blocks=[]", "model.moe.experts=0", "model.dense_width=768", "model.hidden=256"]),
    ("runs/tiny.yaml", [ROWS, "train.sequence_length=512", "train.batch_sequences=8", "train.micro_batch=2",
                        "model.hidden=128"]),
    ("runs/quickstart.yaml", [ROWS, "model.engram.vocab_size=20000", "model.hidden=192", "train.tensorboard=false",
                              "evaluate.every=0"]),
    ("runs/quickstart.yaml", [ROWS, "model.engram.vocab_size=50000", "model.moe.experts=16", "train.tensorboard=false",
                              "evaluate.every=0"]),
    ("runs/memory_off.yaml", ["model.layers=4", "model.hidden=144", "train.batch_sequences=8"]),
    ("runs/memory_on.yaml", [ROWS, "model.layers=4", "train.batch_sequences=16"]),
    ("models/sweep_small.yaml", ["model.layers=3", "model.moe.experts=48", "train.batch_sequences=1",
                                 "train.micro_batch=1"]),
    ("models/sweep_small_engram.yaml", [ROWS, "model.layers=4", "model.moe.experts=32", "train.batch_sequences=2",
                                        "train.sequence_length=512"]),
    ("models/engram_100m.yaml", ["model.layers=3", "model.hidden=384", "train.batch_sequences=4", "model.vocab_size=8192",
                                 "train.sequence_length=256"]),
    ("models/dense_124m.yaml", ["model.layers=2", "train.batch_sequences=8", "model.vocab_size=4096"]),
]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(program, folder, config, overrides, steps):
    """-> CPU seconds, bytes measured, and predicted seconds of a step and bytes."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    begin = cpu_seconds()
    ran = subprocess.run([program, "train", f"configs/{config}", f"data.train={folder}/corpus", "evaluate.sets=[]",
                          f"run.dir={run}", "device=cpu", *overrides, f"train.steps={steps}"], capture_output=True,
                         text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if ran.returncode != 0:
        sys.exit(f"{config} {' '.join(overrides)}: {ran.stderr[-800:]}")
    spent = cpu_seconds() - begin
    said = re.search(r"([\d.]+) (KiB|MiB|GiB) predicted; a step [\d.e+-]+ s, ([\d.e+-]+) s predicted", ran.stderr)
    scale = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[said[2]]
    return spent, json.loads((run / "result.json").read_text())["peak_memory_bytes"], float(said[3]), float(said[1]) * scale


def main():
    program, folder = sys.argv[1] + "/mneme", pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for name in ("emma", "persuasion"):
        text = folder / f"{name}.txt"
        text.write_bytes(subprocess.run(["xz", "-dc", f"data/austen/{name}.txt.xz"], check=True,
                                        capture_output=True).stdout)
        texts.append(str(text))
    subprocess.run([program, "prepare", "--input", *texts, "--output", f"{folder}/corpus", "--replace"], check=True,
                   capture_output=True)
    worst_memory = worst_time = 0.0
    for config, overrides in RUNS:
        few = min(train(program, folder, config, overrides, FEW)[0] for _ in range(REPEATS))
        runs = [train(program, folder, config, overrides, MANY) for _ in range(REPEATS)]
        many, peak, said_seconds, said_bytes = min(runs)
        seconds = (many - few) / (MANY - FEW)
        memory, time = said_bytes / peak - 1, said_seconds / seconds - 1
        worst_memory, worst_time = max(worst_memory, abs(memory)), max(worst_time, abs(time))
        print(f"| `{config}` {' '.join(overrides)} | {said_bytes / 2**20:.1f}, {peak / 2**20:.1f} MiB | {100 * memory:+.1f} % "
              f"| {said_seconds:.3f}, {seconds:.3f} s | {100 * time:+.1f} % |", flush=True)
    print(f"worst: memory {100 * worst_memory:.1f} %, time {100 * worst_time:.1f} %")
    sys.exit(worst_memory > 0.05 or worst_time > 0.15)


main()
