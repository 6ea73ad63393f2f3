#!/usr/bin/env python3
"""Rates for configs/devices: times of ops from a bench of whole steps, their work from `mneme plan`.

  OMP_NUM_THREADS=1 tests/bench/fit_rates.py build     (a folder with mneme and tests/bench/step_bench)
  tests/bench/fit_rates.py build --gpus 4 --corpus corpora/bpe --keep steps.json
  tests/bench/fit_rates.py build --from steps.json

Of one CPU thread: for each kind of work F and B are fitted so that flops / F + bytes / B is near the measured CPU seconds, errors
counted as shares of the step. Of a GPU (a model a GPU at a time): flops / F + bytes / B + exps / E of every kind, and what a kernel
costs beside that, are fitted at once to the parts of all steps (gpu_step_bench) and to the steps, errors as shares of each; a rate
moves away from the shipped one as far as that pays. A step is that of a run on --corpus, a prepared one of at most 32,768 ids: on
text, at clocks that the card keeps, with what the host does between two. --keep writes what was measured, --from fits it again.
Prints the rates as YAML, and what the fit says of every run.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "long"))
from plan_measured import trained  # noqa: E402

KINDS = {
    "matmul": ["matmul"],
    "experts": ["experts", "experts_grad"],
    "attention": ["attention"],
    "attention_grad": ["attention_grad"],
    "head": ["head_loss"],
    "streams": ["hyper_enter", "hyper_leave", "hyper_leave_enter", "hyper_leave_grad", "hyper_enter_grad", "hyper_read", "hyper_read_grad",
                "hyper_expand", "hyper_reduce"],
    "routing": ["route", "route_grad", "balance_loss", "bias_update", "load_imbalance"],
    "memory": ["engram_gate", "engram_gate_grad", "short_conv", "short_conv_grad"],
    "optimizer": ["adamw", "muon_momentum", "muon_apply", "sum_squares", "step_decision"],
    "orthogonal": ["newton_schulz"],
    "norms": ["rms_norm", "rms_norm_grad", "rope", "latent", "latent_grad", "swiglu", "swiglu_grad", "sum", "fill", "copy", "cast", "add",
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


def work(build, config, overrides, batch, options=("--threads", "1")):
    out = subprocess.run([f"{build}/mneme", "plan", f"configs/{config}", *options, "--json", *overrides,
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


def on_cpu(build):
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


LONG = ["train.sequence_length=32768", "train.batch_sequences=1"]
SMALL = ["model.vocab_size=32768", "model.dense_width=752", "model.moe.experts=94", "model.engram.vocab_size=[21000]"]
GPU_RUNS = [
    ("models/moe_335m.yaml", ["train.sequence_length=2048", "train.batch_sequences=16"]),
    ("models/engram_335m.yaml", ["train.sequence_length=2048", "train.batch_sequences=16"]),
    ("models/moe_335m.yaml", LONG),
    ("models/moe_27b_slice.yaml", ["train.batch_sequences=4"]),
    ("models/moe_27b_slice.yaml", ["train.batch_sequences=4", "model.mhc.streams=4", "optim.matrices=muon"]),
    ("runs/sweep_small.yaml", [*SMALL, "train.batch_sequences=4"]),
    ("runs/sweep_small.yaml", [*SMALL, "train.batch_sequences=64"]),
    ("models/dense_124m.yaml", ["train.batch_sequences=32", "train.sequence_length=1024"]),
]
STEPS = 60  # of a run, of which the later half counts
# What is fitted, and how far from the shipped rate one error of 4 % of a time may carry it (in logarithms).
UNITS = {"flops": 0.15, "bytes": 0.35, "exps": 0.35}
CALL_FREEDOM = 0.5
# Kinds that stay where they are: no part alone tells of tables, and beside norms and routing they are so little of any run here
# that their rate would take up what those leave.
UNTOLD = {"tables": 0.03}
ERROR = 0.04
STEP_WEIGHT = 3.0
REST = ("norms", "routing", "tables")  # with what no op tells of


def measured_on_gpu(build, config, overrides, gpu):
    """-> seconds of a step, and of it by op."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)}
    out = subprocess.run([f"{build}/tests/bench/gpu_step_bench", f"configs/{config}", "train.precision=bf16", "device=gpu", *overrides],
                         check=True, capture_output=True, text=True, env=env, timeout=120).stdout
    ops = {words[0]: 1e-3 * float(words[2]) for words in map(str.split, out.splitlines())
           if len(words) == 4 and words[3].endswith("%") and words[0] != "all"}
    return 1e-3 * float(re.search(r"step ([\d.]+) ms", out)[1]), ops


def measure_on_gpus(build, gpus, corpus, folder):
    free = queue.Queue()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    for gpu in (seen.split(",") if seen else range(gpus))[:gpus]:
        free.put(gpu)

    def one(run):
        gpu = free.get()
        try:
            step, ops = measured_on_gpu(build, *run, gpu)
            _, middle = trained(f"{build}/mneme", folder / str(gpu), corpus, (1, run[0], STEPS, run[1]), [gpu])
            return {"config": run[0], "overrides": run[1], "step": step, "ops": ops, "run": middle("seconds")}
        except (subprocess.SubprocessError, TypeError, RuntimeError) as error:
            print(f"# {run[0]} {' '.join(run[1])}: left out, {error}", flush=True)
            return None
        finally:
            free.put(gpu)

    with concurrent.futures.ThreadPoolExecutor(gpus) as pool:
        return [run for run in pool.map(one, GPU_RUNS) if run]


def shipped(device):
    """-> {(kind, unit): rate} of a device's file, and the seconds of a call."""
    path = pathlib.Path(device if device.endswith(".yaml") else f"configs/devices/{device}.yaml")
    text = path.read_text()
    rates = {(kind, unit): float(rate) for kind, units in re.findall(r"^  (\w+): \{(.*)\}", text, re.M)
             for unit, rate in re.findall(r"(\w+): ([\d.e+]+)", units)}
    return rates, float(re.search(r"^call_seconds: (\S+)", text, re.M)[1])


def solve(a, b):
    """x of a x = b, a dense and symmetric."""
    n = len(b)
    rows = [[*a[i], b[i]] for i in range(n)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, n):
            factor = rows[r][i] / rows[i][i]
            for c in range(i, n + 1):
                rows[r][c] -= factor * rows[i][c]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (rows[i][n] - sum(rows[i][c] * x[c] for c in range(i + 1, n))) / rows[i][i]
    return x


def fit_at_once(rows, seconds, weights, start, freedom):
    """Reciprocal rates: products with `rows` near `seconds`, all in logarithms; Gauss-Newton."""
    x = [0.0] * len(start)  # logarithm over the start's
    for _ in range(60):
        now = [s * math.exp(v) for s, v in zip(start, x)]
        normal = [[1 / freedom[i]**2 if i == j else 0.0 for j in range(len(x))] for i in range(len(x))]
        right = [-v / f**2 for v, f in zip(x, freedom)]
        for row, time, weight in zip(rows, seconds, weights):
            parts = [r * n for r, n in zip(row, now)]
            said = sum(parts)
            slope = [weight / ERROR * p / said for p in parts]
            off = weight / ERROR * math.log(said / time)
            used = [i for i, v in enumerate(slope) if v]
            for i in used:
                right[i] -= slope[i] * off
                for j in used:
                    normal[i][j] += slope[i] * slope[j]
        x = [v + max(-0.3, min(0.3, d)) for v, d in zip(x, solve(normal, right))]
    return [s * math.exp(v) for s, v in zip(start, x)]


def on_gpus(build, runs, device):
    start, call = shipped(device)
    keys = list(start)
    rows, seconds, weights, names = [], [], [], []
    for run in runs:
        resolved = subprocess.run([f"{build}/mneme", "config", "resolve", f"configs/{run['config']}", *run["overrides"], "--json"],
                                  check=True, capture_output=True, text=True).stdout
        batch = json.loads(resolved)["config"]["train"]["batch_sequences"]
        done = work(build, run["config"], [*run["overrides"], "train.precision=bf16", "device=gpu"], batch, ["--device", device])

        def row(kinds):
            calls = sum(done[kind]["calls"] for kind in kinds)
            return [done[kind].get(unit, 0.0) if kind in kinds else 0.0 for kind, unit in keys] + [calls]

        spent = {kind: sum(run["ops"].get(op, 0.0) for op in KINDS[kind]) for kind in KINDS if kind not in REST}
        parts = [((kind,), time, 1.0) for kind, time in spent.items() if time > 1e-5]
        rest = run["step"] - sum(spent.values())
        if rest > 0.02 * run["step"]:
            parts.append((REST, rest, 0.5))
        for kinds, time, weight in [*parts, (tuple(done), run["run"], STEP_WEIGHT)]:
            rows.append(row(kinds))
            seconds.append(time)
            weights.append(weight)
            names.append((run, kinds))
    freedom = [UNTOLD.get(kind, UNITS[unit]) for kind, unit in keys] + [CALL_FREEDOM]
    fitted = fit_at_once(rows, seconds, weights, [1 / start[key] for key in keys] + [call], freedom)
    for (run, kinds), row, time in zip(names, rows, seconds):
        said = sum(r * f for r, f in zip(row, fitted))
        what = "step" if len(kinds) > len(REST) else "+".join(kinds)
        print(f"# {run['config']} {' '.join(run['overrides'])}: {what} {1e3 * said:.3f} of {1e3 * time:.3f} ms, "
              f"{100 * (said / time - 1):+.1f} %")
    print(f"call_seconds: {fitted[-1]:.2g}\nrates:")
    for kind in dict.fromkeys(kind for kind, _ in keys):
        parts = [f"{unit}: {1 / value:.3g}" for (k, unit), value in zip(keys, fitted) if k == kind]
        print(f"  {kind}: {{{', '.join(parts)}}}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("--gpus", type=int, default=0, help="that may be used; 0: one CPU thread")
    p.add_argument("--corpus", help="that the runs on GPUs read")
    p.add_argument("--keep", help="a file for what was measured on GPUs")
    p.add_argument("--from", dest="kept", help="such a file, in place of measuring")
    p.add_argument("--device", default="h200", help="whose rates the fit of a GPU starts from: a name or a file")
    a = p.parse_args()
    if not a.gpus and not a.kept:
        on_cpu(a.build)
        return
    if a.gpus and not a.corpus:
        p.error("--gpus needs --corpus")
    if a.kept:
        runs = json.loads(pathlib.Path(a.kept).read_text())
        if not all("run" in run for run in runs):
            p.error(f"{a.kept}: holds no steps of runs; measure again with --gpus and --corpus")
    else:
        with tempfile.TemporaryDirectory() as folder:
            runs = measure_on_gpus(a.build, a.gpus, a.corpus, pathlib.Path(folder))
    if a.keep:
        pathlib.Path(a.keep).write_text(json.dumps(runs, indent=1))
    on_gpus(a.build, runs, a.device)


if __name__ == "__main__":
    main()
