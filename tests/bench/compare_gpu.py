#!/usr/bin/env python3
"""Tokens a second of `mneme train` and of a peer on one GPU, turn and turn about: A B A B ...

    compare_gpu.py CONFIG --peer torch|transformers [--mneme build/mneme] [--turns 2] [--keep] [--steps 66] [key=value]...

Prints every turn's windows (10 steps each, warm-up left out), then the medians over all turns and their ratio.
--keep: the peer stays alive between its turns, so that it compiles once; both programs' memory must fit then. Without it each turn
is a process of its own, and from the second on the peer finds its compiled kernels on disk. --peer none measures Mneme alone.
"""
import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import mneme_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
WARMUP, WINDOW = 6, 10


def ours(a, scratch, turn):
    """Tokens/s of the windows of one run, by the clock at which the program's log lines of every WINDOW-th step arrive."""
    command = [a.mneme, "train", a.config, f"run.dir={scratch}/turn-{turn}", "train.steps=1000000", f"train.log_every={WINDOW}",
               "device=gpu", "train.precision=bf16", *a.overrides]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    marks, log, note = [], [], {}
    for line in program.stderr:
        log.append(line)
        if line.startswith("memory"):
            note["memory"] = line.split(None, 1)[1].strip()
        step = re.match(r"step (\d+)/.* loss ([\d.]+)", line)
        if step and int(step[1]) % WINDOW == 0:
            marks.append(time.perf_counter())
            note["last_loss"] = float(step[2])
            if int(step[1]) >= a.steps:
                break
    program.kill()  # a checkpoint at the end would take longer than the measurement
    program.wait()
    if len(marks) < 2:
        raise SystemExit(f"{' '.join(command)}: exit {program.returncode}\n{''.join(log)[-1500:]}")
    shutil.rmtree(scratch / f"turn-{turn}", ignore_errors=True)
    return [WINDOW * a.tokens / (end - begin) for begin, end in zip(marks, marks[1:])], note


class Peer:
    def __init__(self, a, scratch):
        program = [sys.executable, str(ROOT / f"tests/bench/peer_{a.peer}.py"), str(scratch / "resolved.yaml")]
        program += ["--precision", "bf16", "--compile", "--graph", "--quiet"] if a.peer == "torch" else []
        self.command = program + ["--warmup", str(WARMUP), "--window", str(WINDOW), *a.peer_option]
        self.steps, self.keep, self.process = a.steps, a.keep, None

    def start(self):
        self.process = subprocess.Popen(self.command + ["--steps", str(self.steps), *(["--paced"] if self.keep else [])],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.keep:
            self.process.stdout.readline()  # warm

    def turn(self):
        if self.process is None or not self.keep:
            self.start()
        if self.keep:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        last = None
        for line in self.process.stdout:
            last = line
            if self.keep:
                break
        if not self.keep:
            self.process.wait()  # its memory is free then
        if not last or not last.startswith("{"):
            raise SystemExit(f"{' '.join(self.command)}: no result")
        result = json.loads(last)
        return result["windows"], {k: result[k] for k in ("mfu", "last_loss", "peak_gib", "seconds_of_first_step", "device", "torch")}

    def end(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--peer", choices=("torch", "transformers", "none"), default="torch")
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--turns", type=int, default=2)
    p.add_argument("--steps", type=int, default=66)
    p.add_argument("--keep", action="store_true")
    p.add_argument("--peer-option", action="append", default=[], help="one more argument of the peer, e.g. --peer-option=--eager")
    p.add_argument("overrides", nargs="*")
    a = p.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        scratch = pathlib.Path(name)
        text = subprocess.run([a.mneme, "config", "resolve", a.config, *a.overrides], check=True, capture_output=True, text=True).stdout
        (scratch / "resolved.yaml").write_text(text)
        train = mneme_files.read_config(scratch / "resolved.yaml")["train"]
        a.tokens = train["batch_sequences"] * train["sequence_length"]
        peer = Peer(a, scratch) if a.peer != "none" else None
        if peer and a.keep:
            peer.start()  # compiles before anything is timed
        rates = {"mneme": [], a.peer: []}
        for turn in range(a.turns):
            for who, run in (("mneme", lambda: ours(a, scratch, turn)), (a.peer, peer.turn if peer else None)):
                if run is None:
                    continue
                windows, more = run()
                rates[who] += windows
                print(f"{who:12} turn {turn + 1}: {[round(w) for w in windows]} {json.dumps(more)}", flush=True)
        if peer:
            peer.end()
    medians = {who: statistics.median(w) for who, w in rates.items() if w}
    print(json.dumps({"config": pathlib.Path(a.config).name, "overrides": a.overrides, "medians": medians,
                      "windows": {who: len(w) for who, w in rates.items()},
                      "ratio": medians["mneme"] / medians[a.peer] if peer else None}))


if __name__ == "__main__":
    main()
