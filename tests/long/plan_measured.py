#!/usr/bin/env python3
"""What `mneme plan` and the trainer predict against what runs take (docs/results.md): on one CPU thread, or on GPUs.

  tests/long/plan_measured.py build FOLDER
  tests/long/plan_measured.py build FOLDER --gpus 4 --corpus corpora/bpe [--steps 0.5] [--only WORD]
  tests/long/plan_measured.py build FOLDER --judge --device rates.yaml

On a CPU it prepares two novels in FOLDER and trains 16 small configurations. The measured seconds are CPU seconds of fifteen steps
less those of three, so that neither start nor end, nor others on the machine, count. About ten minutes.

On GPUs it trains 12 configurations on 1, 2 and 4 of them under mpirun, side by side where they fit on disjoint ones; --corpus is a
prepared corpus of at most 32,768 ids. Seconds of a step are the median of the last half of the steps. Learning rates are so small
that the router stays the fresh one, and its bias moves as fast as it can without overshooting (at 0.02 the fullest expert stays at
3.5 times the mean, at 0.005 it comes to 2.4 in 20 steps): within the first half experts come to be dealt more equally, nearer to
what a plan assumes and long runs come to. Of memory there is what the pool had in use, and what the device held by nvidia-smi. What was
measured stays in FOLDER/measured.json, and --judge holds it against other rates without a GPU.

A line each: predicted and measured peak of memory, predicted and measured seconds of a step. None of the configurations is one that
the rates of configs/devices were fitted on. Exit 1 where one is off by more than 5 % of memory or 15 % of time, or where the
trainer predicts other than the plan.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time

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


# Ranks, configuration, steps, what is changed of it. "70|40": on cards of 141 GB and of 80 GB.
GPU_RUNS = [
    (1, "models/engram_100m.yaml", 40, ["train.sequence_length=1024", "train.batch_sequences=24", "optim.matrices=muon"]),
    (1, "models/moe_335m.yaml", 40, ["model.layers=8", "model.hidden=768", "model.dense_width=3072", "train.recompute=[all]",
                                     "train.sequence_length=8192", "train.batch_sequences=4"]),
    (1, "models/dense_124m.yaml", 30, ["train.sequence_length=1024", "train.batch_sequences=64", "model.mhc.streams=2",
                                       "optim.matrices=muon"]),
    (1, "models/moe_27b.yaml", 24, ["model.layers=7|4", "optim.matrices=adamw", "train.batch_sequences=4",
                                    "train.micro_batch=2"]),
    (2, "models/moe_335m.yaml", 30, ["model.hidden=768", "model.layers=10", "optim.matrices=muon", "train.batch_sequences=96",
                                     "train.micro_batch=12"]),
    (2, "models/moe_335m.yaml", 80, ["model.hidden=768", "model.moe.experts=48", "model.moe.top_k=4", "parallel.expert=2",
                                     "model.moe.expert_width=512", "parallel.expert_room=1.25", "train.sequence_length=1024",
                                     "train.batch_sequences=64"]),
    (2, "models/engram_335m.yaml", 40, ["model.layers=9", "model.engram.blocks=[1, 4]", "model.engram.vocab_size=1_000_000",
                                        "parallel.memory=2", "train.sequence_length=1024", "train.batch_sequences=64"]),
    (2, "models/engram_27b.yaml", 40, ["model.layers=6", "model.engram.blocks=[1]", "model.engram.vocab_size=1_000_000", ROWS,
                                       "parallel.expert=2", "parallel.memory=2", "train.batch_sequences=8", "train.micro_batch=2",
                                       "train.recompute=[attention, mhc]"]),
    (4, "models/engram_335m.yaml", 30, ["model.mhc.streams=2", "model.hidden=640", "optim.matrices=muon",
                                        "train.batch_sequences=128", "train.micro_batch=16"]),
    (4, "models/moe_27b.yaml", 40, ["model.layers=7", "model.mhc.streams=1", "parallel.expert=4", "optim.matrices=adamw",
                                    "train.batch_sequences=32", "train.micro_batch=2"]),
    (4, "models/engram_335m.yaml", 80, ["model.layers=8", "parallel.expert=2", "parallel.memory=4", "train.sequence_length=16384",
                                        "train.batch_sequences=16", "train.micro_batch=2", "parallel.expert_room=1.25"]),
    (4, "models/engram_27b.yaml", 30, ["model.layers=24|13", "model.engram.blocks=[1, 9]", ROWS, "parallel.expert=4", "parallel.memory=4",
                                       "train.batch_sequences=16", "train.micro_batch=2", "train.recompute=[ffn, mhc, exchange]"]),
]
BALANCED = ["optim.lr=1e-6", "optim.schedule={shape: constant, warmup: 0}", "model.moe.bias_update=0.005"]
COMMON = ["device=gpu", "train.precision=bf16", "evaluate.sets=[]", "train.log_every=1", "train.checkpoint_last=false",
          "train.checkpoint_every=0", "train.time_parts=false"]
LARGE = 100 * 2**30  # a card of 141 GB has more


def name_of(run):
    ranks, config, _, overrides = run
    return f"{ranks} x {pathlib.Path(config).stem} {' '.join(overrides)}"


def planned(program, device, run):
    """Bytes that the plan says a rank has in use and that its device holds, and seconds of a step."""
    ranks, config, _, overrides = run
    said = subprocess.run([program, "plan", f"configs/{config}", "--ranks", str(ranks), "--device", device, "--json", *COMMON,
                           *overrides], capture_output=True, text=True)
    if said.returncode != 0:
        sys.exit(f"{name_of(run)}: {said.stderr[-800:]}")
    plan = json.loads(said.stdout)
    if plan["breaks"]:
        sys.exit(f"{name_of(run)}: {plan['breaks']}")
    memory = plan["bytes_per_rank"]
    return {"in_use": memory["total"] - memory["freed blocks"], "held": memory["total"] + memory["libraries"],
            "seconds": plan["stages"][0]["seconds_per_step"]}


class Held:
    """The most that each GPU held since it was asked for last, in bytes."""

    def __init__(self):
        self.most, self.lock = {}, threading.Lock()
        self.process = subprocess.Popen(["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits", "-lms",
                                         "100"], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        for line in self.process.stdout:
            index, mebibytes = line.split(",")
            with self.lock:
                self.most[int(index)] = max(self.most.get(int(index), 0), int(mebibytes) * 2**20)

    def forget(self, gpus):
        with self.lock:
            self.most.update({gpu: 0 for gpu in gpus})

    def of(self, gpus):
        with self.lock:
            return max(self.most.get(gpu, 0) for gpu in gpus)


def trained(program, where, corpus, run, gpus):
    """Trains in the folder `where`, emptied before -> result.json, and a function: the later half's median of a metric."""
    ranks, config, steps, overrides = run
    shutil.rmtree(where, ignore_errors=True)
    mpirun = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    ran = subprocess.run([*mpirun, program, "train", f"configs/{config}", *COMMON, *BALANCED, *overrides, f"data.train={corpus}",
                          f"train.steps={steps}", f"run.dir={where}"], capture_output=True, text=True, timeout=120,
                         env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                                           "OMPI_MCA_hwloc_base_binding_policy": "none", "NO_COLOR": "1"})
    if ran.returncode != 0:
        raise RuntimeError(f"exit {ran.returncode}: {(ran.stdout + ran.stderr)[-1500:]}")
    lines = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    late = lines[len(lines) // 2:]
    return json.loads((where / "result.json").read_text()), lambda key: statistics.median(line.get(key, 0.0) for line in late)


def train_on(program, folder, a, run, gpus, held):
    """What the run took, and what it said before."""
    ranks, config, steps, overrides = run
    run = (ranks, config, max(8, round(steps * a.steps)), overrides)
    held.forget(gpus)
    begin = time.monotonic()
    try:
        result, middle = trained(program, folder / f"run-{'-'.join(map(str, gpus))}", a.corpus, run, gpus)
    except RuntimeError as error:
        return {"failed": str(error)}
    return {"in_use": result["peak_memory_bytes"], "held": held.of(gpus), "seconds": middle("seconds"),
            "exposed": middle("time/exposed"), "imbalance": middle("experts/load_imbalance"),
            "said_seconds": result["predicted_step_seconds"], "said_in_use": result["predicted_memory_bytes"],
            "wall": time.monotonic() - begin}


def measure_on_gpus(program, folder, a, runs):
    """The runs of most ranks first; each begins when enough GPUs are free."""
    held, measured, free = Held(), {}, set(range(a.gpus))
    waiting = sorted((run for run in runs if run[0] <= a.gpus), key=lambda run: -run[0])
    with concurrent.futures.ThreadPoolExecutor(a.gpus) as pool:
        going = {}
        while waiting or going:
            while waiting and waiting[0][0] <= len(free):
                run = waiting.pop(0)
                gpus = sorted(free)[:run[0]]
                free -= set(gpus)
                going[pool.submit(train_on, program, folder, a, run, gpus, held)] = (run, gpus)
            done, _ = concurrent.futures.wait(going, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                run, gpus = going.pop(future)
                free |= set(gpus)
                measured[name_of(run)] = future.result()
                print(f"# {name_of(run)}: {measured[name_of(run)]}", file=sys.stderr, flush=True)
                (folder / "measured.json").write_text(json.dumps(measured, indent=1))
    held.process.kill()
    return measured


def judge(program, device, runs, measured):
    """Prints a line each; -> whether all are within their bounds."""
    gibi, fine, worst = 2**30, True, {"in_use": 0.0, "held": 0.0, "seconds": 0.0}
    print("| ranks, configuration | in use, GiB: predicted, measured | held, GiB | step, ms | off | exposed | imbalance |")
    for run in runs:
        got = measured.get(name_of(run))
        if got is None or "failed" in got:
            print(f"| {name_of(run)} | {'did not run' if got is None else got['failed']} |", flush=True)
            fine = False
            continue
        said = planned(program, device, run)
        off = {key: said[key] / got[key] - 1 for key in worst}
        worst = {key: max(worst[key], abs(off[key])) for key in worst}
        print(f"| {name_of(run)} | {said['in_use'] / gibi:.2f}, {got['in_use'] / gibi:.2f} ({100 * off['in_use']:+.1f} %) "
              f"| {said['held'] / gibi:.2f}, {got['held'] / gibi:.2f} ({100 * off['held']:+.1f} %) "
              f"| {1e3 * said['seconds']:.1f}, {1e3 * got['seconds']:.1f} | {100 * off['seconds']:+.1f} % "
              f"| {1e3 * got['exposed']:.1f} | {got['imbalance']:.2f} |", flush=True)
    print("worst: " + ", ".join(f"{key} {100 * value:.1f} %" for key, value in worst.items()))
    return fine and worst["in_use"] <= 0.05 and worst["held"] <= 0.05 and worst["seconds"] <= 0.15


def same_model(program, device, runs, measured):
    """Whether the trainer said what the plan says, at the rates that it was built with."""
    fine = True
    for run in runs:
        got = measured.get(name_of(run), {})
        if "said_seconds" not in got:
            continue
        said = planned(program, device, run)
        for mine, theirs in ((said["seconds"], got["said_seconds"]), (said["in_use"], got["said_in_use"])):
            if abs(mine / theirs - 1) > 1e-6:
                print(f"{name_of(run)}: the plan says {mine}, the trainer {theirs}")
                fine = False
    return fine


def on_gpus(program, folder, a):
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "measured.json"
    card = json.loads(kept.read_text())["card"] if a.judge else subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits", "-i", "0"], check=True,
        capture_output=True, text=True).stdout.strip()
    name, mebibytes = card.rsplit(",", 1)
    small = int(mebibytes) * 2**20 < LARGE
    shipped = "h100" if "H100" in name else "h200"
    pick = lambda text: re.sub(r"(\w+)\|(\w+)", r"\2" if small else r"\1", text)
    runs = [(ranks, config, steps, [pick(word) for word in words]) for ranks, config, steps, words in GPU_RUNS]
    runs = [run for run in runs if a.only in name_of(run)]
    measured = json.loads(kept.read_text()) if a.judge else measure_on_gpus(program, folder, a, runs)
    kept.write_text(json.dumps({**measured, "card": card}, indent=1))
    print(f"{card} MiB; rates of {a.device or shipped}")
    fine = judge(program, a.device or shipped, runs, measured)
    return (a.judge or same_model(program, shipped, runs, measured)) and fine


def on_cpu(program, folder):
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
    return worst_memory <= 0.05 and worst_time <= 0.15


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build")
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--gpus", type=int, default=0, help="that may be used; 0: one CPU thread")
    p.add_argument("--corpus", help="that the runs on GPUs read")
    p.add_argument("--steps", type=float, default=1.0, help="a factor of the steps on GPUs")
    p.add_argument("--only", default="", help="runs on GPUs whose line holds this")
    p.add_argument("--judge", action="store_true", help="what FOLDER/measured.json holds of GPUs, and nothing new")
    p.add_argument("--device", help="rates to judge by in place of the shipped ones")
    a = p.parse_args()
    if a.gpus and not a.corpus:
        p.error("--gpus needs --corpus")
    program = a.build + "/mneme"
    fine = on_gpus(program, a.folder, a) if a.gpus or a.judge else on_cpu(program, a.folder)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
