#!/usr/bin/env python3
"""Seconds from the start of the process to the end of its first step, as the program's own log line of that step tells it.

    first_step.py CONFIG data.train=corpora/bpe [--mneme build/mneme] [--times 5] [key=value]...
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time


def once(command):
    with tempfile.TemporaryDirectory(prefix="first-step-") as folder:
        began = time.perf_counter()
        program = subprocess.Popen([*command, f"run.dir={folder}/run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = []
        for line in program.stderr:
            log.append(line)
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - began
                program.kill()
                program.wait()
                return seconds
        raise SystemExit(f"{' '.join(command)}: exit {program.wait()}\n{''.join(log)[-800:]}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--mneme", default="build/mneme")
    p.add_argument("--times", type=int, default=5)
    p.add_argument("overrides", nargs="*")
    a = p.parse_intermixed_args()
    command = [a.mneme, "train", a.config, "train.steps=100", "train.log_every=1", *a.overrides]
    seconds = [once(command) for _ in range(a.times)]
    print(json.dumps({"median": round(statistics.median(seconds), 3), "all": [round(s, 3) for s in seconds]}))


if __name__ == "__main__":
    main()
