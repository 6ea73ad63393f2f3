#!/usr/bin/env python3
"""Rates of one CPU thread for configs/devices/cpu.yaml: times of ops from step_bench, their work from `mneme plan`.

  OMP_NUM_THREADS=1 tests/bench/fit_rates.py build     (a folder with mneme and tests/bench/step_bench)

For each kind of work F and B are fitted so that flops / F + bytes / B is near the measured CPU seconds, errors counted as
shares of the step. Prints the rates as YAML, and what the fit says of every run.
"""

import json
import re
import subprocess
import sys

KINDS = {
    "matmul": ["matmul"],
    "experts": ["experts", "experts_grad"],
    "attention": ["attention"],
    "attention_grad": ["attention_grad"],
    "head": ["head_loss"],
    "streams": ["hyper_enter", "hyper_leave", "hyper_leave_grad", "hyper_enter_grad", "hyper_read", "hyper_read_grad",
                "hyper_expand", "hyper_reduce"],
    "routing": ["route", "route_grad", "balance_loss", "bias_update", "load_imbalance"],
    "memory": ["engram_gate", "engram_gate_grad", "short_conv", "short_conv_grad"],
    "optimizer": ["adamw", "muon_momentum", "muon_apply", "sum_squares", "step_decision"],
    "orthogonal": ["newton_schulz"],
    "norms": ["rms_norm", "rms_norm_grad", "rope", "swiglu", "swiglu_grad", "sum", "fill", "copy", "cast", "add",
              "scale"],
}
TABLES = "model.engram.table.store=resident"
RUNS = [
    ("runs/tiny.yaml", ["model.vocab_size=258", TABLES]),
    ("runs/tiny.yaml", ["model.vocab_size=258", TABLES, "model.mhc.streams=4", "model.hidden=128"]),
    ("runs/tiny.yaml", ["model.vocab_size=8192", TABLES, "model.hidden=256", "model.moe.expert_width=128"]),
    ("runs/tiny.yaml", ["model.vocab_size=258", "model.engram.blocks=[]", "model.hidden=192", "optim.matrices=adamw"]),
    ("runs/quickstart.yaml", ["model.vocab_size=258", TABLES, "model.engram.vocab_size=20000"]),
    ("runs/memory_off.yaml", ["model.vocab_size=8192", "train.batch_sequences=8"]),
    ("runs/memory_on.yaml", ["model.vocab_size=8192", "train.batch_sequences=8", TABLES]),
    ("models/engram_100m.yaml", ["train.batch_sequences=2", "train.sequence_length=512", "model.vocab_size=8192"]),
    ("models/engram_100m.yaml", ["train.batch_sequences=8", "train.sequence_length=128", "model.layers=3",
                                 "model.engram.blocks=[1]"]),
    ("models/dense_124m.yaml", ["model.layers=4", "train.batch_sequences=4", "train.sequence_length=256"]),
    ("models/sweep_small_engram.yaml", ["train.batch_sequences=2", TABLES]),
    ("models/moe_335m.yaml", ["model.layers=3", "train.batch_sequences=1", "train.sequence_length=1024",
                              "model.moe.experts=16"]),
]


REPEATS = 3  # the least counts: others on the machine only ever add


def measured_once(build, config, overrides):
    """-> CPU seconds of a step, and of it by op."""
    out = subprocess.run([f"{build}/tests/bench/step_bench", f"configs/{config}", "3", *overrides], check=True,
                         capture_output=True, text=True).stdout
    step = float(re.search(r"([\d.]+) s cpu", out)[1])
    ops = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 5 and words[4].endswith("%"):
            ops[words[0]] = float(words[3])
    return step, ops


def measured(build, config, overrides):
    runs = [measured_once(build, config, overrides) for _ in range(REPEATS)]
    ops = {name: min(run[1].get(name, 0.0) for run in runs) for name in runs[0][1]}
    return min(run[0] for run in runs), ops


def work(build, config, overrides, batch):
    out = subprocess.run([f"{build}/mneme", "plan", f"configs/{config}", "--threads", "1", "--json", *overrides,
                          f"train.micro_batch={batch}"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["stages"][0]["work"]


def fit(rows):
    """rows of (flops, bytes, seconds), each as a share of its step -> 1/F, 1/B >= 0 of least squares."""
    ff, fb, bb = (sum(x * y for x, y in ((r[i], r[j]) for r in rows)) for i, j in ((0, 0), (0, 1), (1, 1)))
    f1, b1 = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    best = (1e300, 0.0, 0.0)
    determinant = ff * bb - fb * fb
    pairs = [(f1 / ff if ff else 0.0, 0.0), (0.0, b1 / bb if bb else 0.0)]
    if determinant > 1e-12 * ff * bb:
        pairs.append(((f1 * bb - b1 * fb) / determinant, (b1 * ff - f1 * fb) / determinant))
    for x, y in pairs:
        if x >= 0 and y >= 0:
            best = min(best, (sum((f * x + b * y - s) ** 2 for f, b, s in rows), x, y))
    return best[1:]


def main():
    build = sys.argv[1]
    rows, steps = {kind: [] for kind in [*KINDS, "tables"]}, []
    for config, overrides in RUNS:
        text = subprocess.run([f"{build}/mneme", "config", "resolve", f"configs/{config}", *overrides, "--json"],
                              check=True, capture_output=True, text=True).stdout
        batch = json.loads(text)["config"]["train"]["batch_sequences"]
        step, ops = measured(build, config, overrides)
        done = work(build, config, overrides, batch)
        spent = {kind: sum(ops.get(op, 0.0) for op in names) for kind, names in KINDS.items()}
        spent["tables"] = max(0.0, step - sum(spent.values()))  # rows, and all that is no op
        for kind, seconds in spent.items():
            rows[kind].append((done[kind]["flops"] / step, done[kind]["bytes"] / step, seconds / step))
        steps.append((config, step, spent, done))
        print(f"# {config} {' '.join(overrides)}: {step:.3f} s", flush=True)
    rates = {kind: fit(values) for kind, values in rows.items()}
    for config, step, spent, done in steps:
        said = {k: done[k]["flops"] * rates[k][0] + done[k]["bytes"] * rates[k][1] for k in rates}
        worst = max(spent, key=lambda k: abs(said[k] - spent[k]))
        print(f"# {config}: {sum(said.values()) / step:.3f} of {step:.3f} s; furthest off: {worst}, "
              f"{said[worst]:.3f} for {spent[worst]:.3f}")
    print("rates:")
    for kind, (f, b) in rates.items():
        parts = [f"{name}: {1 / x:.3g}" for name, x in (("flops", f), ("bytes", b)) if x > 0]
        print(f"  {kind}: {{{', '.join(parts)}}}")


main()
