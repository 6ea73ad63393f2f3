#!/usr/bin/env python3
"""Tokens a second of small cells side by side on one GPU, against the same cells one after another.

    packed_cells.py [CONFIG] [--tokens 4096,8192,16384,32768] [--side 1,2,4,8] [--turns 2] [--peer torch] [key=value]...

For each number of tokens a step, turn and turn about: `mneme train` of 1, 2, 4 and 8 cells that differ in their seeds alone, in one
process; what all of them have trained on between two readings of their metrics.jsonl, by this program's clock, once every cell has
made its first steps. Cells one after another train at the rate of one. --peer torch: peer_torch.py, one at a time, compiled and as
a CUDA graph, in the same turns. Prints each turn, then medians and ratios as one line of JSON. Where a cell makes no step, its turn is
left out and the exit code is 1.

Without overrides the cell is that of configs/sweeps/small_h200.yaml near rho 0.8: 6.6 M active of 60 M parameters. Where the
config's corpus is not there, the novels of data/austen are taken for one. Four minutes on an H200 without a peer, by its defaults.
"""
import argparse
import json
import lzma
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
CELL = ["model.dense_width=752", "model.moe.experts=94", "model.engram.vocab_size=[21000]", "model.engram.d_mem=128"]
WARMUP = 30  # steps of every cell before a window
PATIENCE = 60  # seconds until then


class StoodStill(Exception):
    """A cell made no step although its process runs."""


class Bench:
    def __init__(self, options, scratch):
        self.o, self.scratch, self.stood_still = options, scratch, 0
        more = ["evaluate.sets=[]", "train.steps=1000000", "train.checkpoint_every=0", "train.checkpoint_last=false",
                "train.log_every=1000000", f"device={options.device}"]
        if options.device != "cpu":
            more.append("train.precision=bf16")
        self.overrides = [*(options.overrides or CELL), *more]
        config = self.resolve(self.overrides)
        self.length = config["train"]["sequence_length"]
        self.corpus = "as configured"
        if not pathlib.Path(config["data"]["train"][0], "manifest.json").exists():
            vocabulary = config["model"]["vocab_size"] or 32768  # bytes are few; the head is to have its usual share
            self.overrides += [f"data.train={self.novels()}", f"model.vocab_size={vocabulary}"]
            self.corpus = "data/austen"

    def resolve(self, overrides):
        command = [self.o.mneme, "config", "resolve", "--json", str(self.o.config), *overrides]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["config"]

    def novels(self):
        texts = self.scratch / "texts"
        texts.mkdir()
        for novel in sorted((ROOT / "data/austen").glob("*.txt.xz")):
            (texts / novel.stem).write_bytes(lzma.decompress(novel.read_bytes()))
        folder = self.scratch / "corpus"
        subprocess.run([self.o.mneme, "prepare", "--input", str(texts), "--output", str(folder)], check=True, capture_output=True)
        return folder

    def batch(self, tokens):
        if tokens % self.length:
            raise SystemExit(f"{tokens} tokens a step are no whole number of sequences of {self.length}")
        return f"train.batch_sequences={tokens // self.length}"

    def cells(self, folder, count):
        for i in range(count):
            cell = folder / f"cell{i}.yaml"
            cell.write_text(f"include: {json.dumps(str(pathlib.Path(self.o.config).resolve()))}\n"
                            f"run: {{dir: {json.dumps(str(folder / f'run{i}'))}, log: {json.dumps(str(folder / f'log{i}'))}}}\n"
                            f"train: {{seed: {i}}}\ndata: {{seed: {i}}}\nmodel: {{engram: {{hash_seed: {i}}}}}\n")
            yield cell

    def turn(self, tokens, count, number):
        """Tokens/s of `count` cells together, in each of the windows."""
        folder = self.scratch / f"{tokens}-{count}-{number}"
        folder.mkdir()
        command = [self.o.mneme, "train", *map(str, self.cells(folder, count)), *self.overrides, self.batch(tokens)]
        with open(folder / "out", "w") as out:
            program = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            steps = [Steps(folder / f"run{i}/metrics.jsonl") for i in range(count)]
            begin = time.perf_counter()
            while any(s.count() < WARMUP for s in steps):
                if program.poll() is not None:
                    log = "".join(f.read_text()[-1500:] for f in [folder / "out", *sorted(folder.glob("log*"))])
                    raise SystemExit(f"{' '.join(command)}: exit {program.poll()}\n{log}")
                if time.perf_counter() - begin > PATIENCE:
                    raise StoodStill(f"steps after {PATIENCE} s: {[s.count() for s in steps]}")
                time.sleep(0.02)
            rates, first = [], [s.count() for s in steps]
            for _ in range(self.o.windows):
                mark, before = time.perf_counter(), sum(s.count() for s in steps)
                time.sleep(self.o.window)
                done, after = time.perf_counter(), sum(s.count() for s in steps)
                rates.append((after - before) * tokens / (done - mark))
            last = [s.count() for s in steps]
            if program.poll() is None and any(a == b for a, b in zip(first, last)):
                raise StoodStill(f"steps before and after the windows: {first}, {last}")
            if program.poll() is not None:
                raise SystemExit(f"{' '.join(command)}: ended in a window\n{(folder / 'out').read_text()[-1500:]}")
            return rates
        finally:
            program.send_signal(signal.SIGKILL)  # nothing of it is kept
            program.wait()


class Steps:
    """Whole lines of a metrics.jsonl, read on from where the last reading ended."""

    def __init__(self, path):
        self.path, self.file, self.lines = path, None, 0

    def count(self):
        if self.file is None and os.path.exists(self.path):
            self.file = open(self.path, "rb", buffering=0)
        while self.file is not None and (piece := self.file.read(1 << 20)):
            self.lines += piece.count(b"\n")
        return self.lines


def make_peer(bench, tokens, scratch):
    import compare_gpu  # torch is needed for a peer alone
    folder = scratch / f"peer-{tokens}"
    folder.mkdir()
    text = subprocess.run([bench.o.mneme, "config", "resolve", str(bench.o.config), *bench.overrides, bench.batch(tokens)],
                          check=True, capture_output=True, text=True).stdout
    (folder / "resolved.yaml").write_text(text)
    peer = compare_gpu.Peer(types.SimpleNamespace(peer="torch", peer_option=[], steps=66, keep=True), folder)
    peer.start()  # compiles before anything is timed
    return peer


def measure(bench, tokens, o, scratch):
    rates = {count: [] for count in o.side}
    peer = make_peer(bench, tokens, scratch) if o.peer == "torch" else None
    if peer:
        rates["peer"] = []
    for turn in range(o.turns):
        for who in rates:
            said = f"{tokens:6} tokens a step, {'peer' if who == 'peer' else f'{who} cells'}, turn {turn + 1}:"
            try:
                windows = peer.turn()[0] if who == "peer" else bench.turn(tokens, who, turn)
            except StoodStill as still:
                bench.stood_still += 1
                print(f"{said} stood still, {still}", flush=True)
                continue
            rates[who] += windows
            print(said, [round(w) for w in windows], flush=True)
    if peer:
        peer.end()
    medians = {str(who): round(statistics.median(w)) for who, w in rates.items() if w}
    sides = [str(n) for n in o.side if str(n) in medians]
    out = {"tokens_per_second": medians}
    if "1" in medians:
        out["over_one_after_another"] = {n: round(medians[n] / medians["1"], 3) for n in sides if n != "1"}
    if peer:
        out["over_peer"] = {n: round(medians[n] / medians["peer"], 3) for n in sides}
    return out


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", nargs="?", default=str(ROOT / "configs/runs/sweep_small.yaml"))
    p.add_argument("overrides", nargs="*", help="in the place of those that make the cell")
    p.add_argument("--mneme", default=str(ROOT / "build/mneme"))
    p.add_argument("--tokens", type=numbers, default=[4096, 8192, 16384, 32768], help="of a step of one cell")
    p.add_argument("--side", type=numbers, default=[1, 2, 4, 8], help="cells side by side")
    p.add_argument("--turns", type=int, default=2)
    p.add_argument("--windows", type=int, default=2, help="of a turn")
    p.add_argument("--window", type=float, default=1.0, help="seconds")
    p.add_argument("--device", default="gpu")
    p.add_argument("--peer", choices=("torch", "none"), default="none")
    o = p.parse_intermixed_args()
    if "=" in o.config:  # overrides alone
        o.config, o.overrides = p.get_default("config"), [o.config, *o.overrides]
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="packed-") as name:
        bench = Bench(o, pathlib.Path(name))
        sizes = {str(tokens): measure(bench, tokens, o, pathlib.Path(name)) for tokens in o.tokens}
    print(json.dumps({"config": pathlib.Path(o.config).name, "overrides": o.overrides or CELL, "corpus": bench.corpus,
                      "turns": o.turns, "windows": o.windows, "window_seconds": o.window, "tokens_a_step": sizes,
                      "stood_still": bench.stood_still, "seconds": round(time.perf_counter() - begin)}))
    if bench.stood_still:
        raise SystemExit(f"{bench.stood_still} times cells stood still")


if __name__ == "__main__":
    main()
