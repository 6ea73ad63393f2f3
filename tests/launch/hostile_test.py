#!/usr/bin/env python3
"""Every file that the program reads, spoiled in every way: one clear message, an exit code that is no crash, no hang, nothing
half written. Also full disks, and outputs that are closed.

  hostile_test.py PROGRAM [WORDS...]     only the cases whose names hold all the words
"""
import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

PROGRAM = os.path.realpath(sys.argv[1])
SECONDS = 60  # of one command, on a machine however busy
MOST_BYTES = 1 << 30  # of memory of its own
DEEP = 200_000
CRASH = ("CHECK", "terminate called", "Segmentation", "core dumped", "AddressSanitizer", "runtime error", "std::bad_alloc", "json.exception")

RUN = """
model:
  layers: 2
  hidden: 16
  dense_width: 32
  leading_dense: 1
  mla: {heads: 2, kv_lora_rank: 8, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 4, shared: 1, top_k: 2, expert_width: 16}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 8, vocab_size: 50}
data: {train: corpus/train}
train: {steps: 2, sequence_length: 32, batch_sequences: 4, checkpoint_every: 1, precision: f32}
evaluate: {sets: [{name: held_out, data: corpus/held_out, sequences: 4}]}
device: cpu
"""
SWEEP = """
base: run.yaml
folder: out
axes: {rho: [1.0, 0.5], seed: [0, 1]}
allocation: {total_bound: 0.005}
run: {attempts: 1, lease_seconds: 1}
"""
DEVICE = (pathlib.Path(__file__).parents[2] / "configs" / "devices" / "cpu.yaml").read_bytes()


def npy(values, dtype="<u2", shape=None, size=2):
    head = repr({"descr": dtype, "fortran_order": False, "shape": shape or (len(values),)}).encode()
    head += b" " * (117 - len(head) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"".join(v.to_bytes(size, "little") for v in values)


def cells(count=12):
    lines = [{"key": f"c{i}", "rho": [1.0, 0.8, 0.5, 0.2][i % 4], "seed": i // 4, "validation_loss": 3 + 0.01 * i} for i in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


# ---- One command, watched

def limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Ran:
    def __init__(self, command, folder, **more):
        out = more.pop("stdout", subprocess.PIPE)
        self.timed_out = False
        child = subprocess.Popen([PROGRAM, *map(str, command)], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                                 preexec_fn=more.pop("limit", limits), env={**os.environ, "OMP_NUM_THREADS": "1"}, **more)
        try:
            self.out, err = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            self.out, err = child.communicate()
            self.timed_out = True
        self.code, self.err = child.returncode, err.decode(errors="replace")


def prepared(folder):
    """What the cases start from: text, ids, a corpus, a run, an export, a sweep's folder, its bundle, a file of each kind. -> the keys of a
    finished cell, of one that a worker has left, and of one that has failed"""
    text = "".join(f"the old river {i} runs under a tall stone bridge and small boats wait there\n" * 3 + "\n" for i in range(60))
    (folder / "text.txt").write_text(text)
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(20)))
    (folder / "ids.npy").write_bytes(npy([5, 6, 1, 7, 8, 1] * 50))
    (folder / "map.npy").write_bytes(npy(range(10)))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "run.yaml").write_text(RUN)
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "device.yaml").write_bytes(DEVICE)
    (folder / "cells.jsonl").write_bytes(cells())
    (folder / "cells.csv").write_text("rho,seed,val\n" + "".join(f"{r},{s},{3 + r * s}\n" for r in (1.0, 0.8, 0.5, 0.2) for s in (0, 1)))
    (folder / "documents.json").write_text(json.dumps({"documents": [[10, 30.5], [20, 61.0]]}))
    (folder / "with_documents.jsonl").write_bytes(cells().replace(b"}\n", b', "documents": "documents.json"}\n'))
    for command in (["prepare", "--input", "text.txt", "--document-bytes", "300", "--held-out", "0.3", "--output", "corpus"],
                    ["train", "run.yaml", "run.dir=run"],
                    ["convert", "--from", "run", "--to", "export", "--format", "huggingface", "--no-logits"]):
        ran = Ran(command, folder)
        if ran.code != 0:
            sys.exit(f"hostile_test: {command}: {ran.err}")
    ran = Ran(["sweep", "sweep.yaml", "--dry-run", "--json"], folder)
    if ran.code != 0:
        sys.exit(f"hostile_test: a dry run: {ran.err}")
    keys = [cell["key"] for cell in json.loads(ran.out)["cells"][:3]]
    done, left, failed = (folder / "out" / "cells" / key for key in keys)
    for cell in (done, left, failed):
        cell.mkdir(parents=True)
    record = {"key": keys[0], "rho": 1.0, "seed": 0, "held_out": "held_out", "validation_loss": 5.5, "steps": 2, "seconds": 0.5,
              "documents": f"cells/{keys[0]}/documents.json"}
    (done / "done.json").write_text(json.dumps(record) + "\n")
    (done / "documents.json").write_text((folder / "documents.json").read_text())
    (left / "lease.1").write_text("host:1:2 beat 17\n")
    (left / "alone").write_text("ended with the cells beside it\n")
    (failed / "failed.1.json").write_text(json.dumps({"why": "exit code 1", "code": 1}) + "\n")
    ran = Ran(["sweep", "sweep.yaml", "--bundle", "packed"], folder)
    if ran.code != 0:
        sys.exit(f"hostile_test: a bundle: {ran.err}")
    return keys


# ---- The table

# What is done to a file: name -> function(path).
def filled(make):
    def spoil(path):
        bytes_before = path.read_bytes()
        path.unlink()
        path.write_bytes(make(bytes_before))
    return spoil


def instead(make):
    def spoil(path):
        path.unlink()
        make(path)
    return spoil


ANY = {
    "empty": filled(lambda b: b""),
    "half": filled(lambda b: b[:len(b) // 2]),
    "one byte less": filled(lambda b: b[:-1]),
    "zeros": filled(lambda b: bytes(5000)),
    "no UTF-8": filled(lambda b: b"\xff\xfe\xc0\x80" * 500),
    "folder": instead(lambda p: p.mkdir()),
    "pipe": instead(lambda p: os.mkfifo(p)),
    "endless": instead(lambda p: p.symlink_to("/dev/zero")),
    "link to itself": instead(lambda p: p.symlink_to(p.name)),
    "absent": instead(lambda p: None),
}
DEEP_JSON = {
    "deep lists": filled(lambda b: b"[" * DEEP),
    "deep closed lists": filled(lambda b: b"[" * DEEP + b"]" * DEEP),
    "deep objects": filled(lambda b: b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "deep inside": filled(lambda b: b.replace(b"{", b'{"deep": ' + b"[" * DEEP + b"]" * DEEP + b", ", 1)),
    "deep in a known place": filled(lambda b: b'{"format": ' + b"[" * DEEP + b"]" * DEEP + b', "version": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "a number": filled(lambda b: b"1e999"),
    "null": filled(lambda b: b"null"),
    "an empty object": filled(lambda b: b"{}"),
    "a key twice": filled(lambda b: b.replace(b"{", b'{"a\\nb": 1, "a\\nb": 2, ', 1)),
    "zeros behind": filled(lambda b: b + bytes(8)),
}
LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n" % ((i, i) + (i - 1,) * 8) for i in range(1, 40))
YAML = {
    "billion laughs": filled(lambda b: LAUGHS),
    "laughs inside": filled(lambda b: LAUGHS + b),
    "itself": filled(lambda b: b"train: &a {steps: *a}\n"),
    "deep lists": filled(lambda b: b"[" * DEEP),
    "deep maps": filled(lambda b: b"{a: " * DEEP),
    "deep blocks": filled(lambda b: b"".join(b" " * i + b"a:\n" for i in range(3000))),
    "deep dashes": filled(lambda b: b"- " * DEEP),
    "twice": filled(lambda b: b + b),
    "many keys": filled(lambda b: b"".join(b"key_%d: 1\n" % i for i in range(40_000))),
    "a long key": filled(lambda b: b"k" * 3_000_000 + b": 1\n"),
    "a long value": filled(lambda b: b"device: " + b"v" * 3_000_000 + b"\n"),
    "two documents": filled(lambda b: b + b"\n---\n" + b),
    "a list": filled(lambda b: b"[1, 2]\n"),
    "tags": filled(lambda b: b"train: !!python/object:os.system {steps: 1}\n"),
    "includes itself": filled(lambda b: b"include: run.yaml\n"),
    "includes a pipe": filled(lambda b: b"include: /dev/zero\n"),
}


def line(text):
    """One more line after the others."""
    return filled(lambda b: b + text.encode() + b"\n")


CELLS = {
    "not a number": line('{"rho": "x", "seed": 0, "validation_loss": 3}'),
    "NaN": line('{"rho": 0.5, "seed": 0, "validation_loss": NaN}'),
    "infinite": line('{"rho": 0.5, "seed": 0, "validation_loss": 1e999}'),
    "a huge seed": line('{"rho": 0.5, "seed": 1e300, "validation_loss": 3}'),
    "an array": line("[1, 2]"),
    "deep": line('{"rho": 0.5, "seed": 0, "validation_loss": ' + "[" * DEEP + "]" * DEEP + "}"),
    "documents of text": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": [["a", 1]]}'),
    "huge documents": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": [[18446744073709551615, 1]]}'),
    "negative documents": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": [[-5, 1]]}'),
    "no documents": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": "nowhere.json"}'),
    "documents of a folder": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": "corpus"}'),
    "documents of a device": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "documents": "/dev/zero"}'),
    "twice": line('{"rho": 0.5, "seed": 0, "validation_loss": 3, "rho": "x"}'),
}
CSV = {
    "text": line("a,b,c"),
    "too few": line("1,2"),
    "a quotation mark": line('1,"2,3'),
    "NaN": line("0.5,0,nan"),
    "infinite": line("0.5,0,inf"),
    "a huge seed": line("0.5,1e300,3"),
    "a head alone": filled(lambda b: b"rho,seed,val\n"),
    "a head twice": filled(lambda b: b"rho,rho,seed,val\n1,x,0,3\n"),
}
NPY = {
    "floats": filled(lambda b: npy([0] * 10, "<f4", size=4)),
    "a huge shape": filled(lambda b: npy([1] * 10, shape=(2**63,))),
    "a product beyond 2^63": filled(lambda b: npy([1] * 10, shape=(2**62 + 5,))),
    "a negative shape": filled(lambda b: npy([1] * 10, shape=(-10,))),
    "two dimensions": filled(lambda b: npy([1] * 10, shape=(2, 5))),
    "objects": filled(lambda b: npy([1] * 10, "|O")),
    "a head of nothing": filled(lambda b: b"\x93NUMPY\x01\x00\xff\xff"),
    "a huge head": filled(lambda b: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100),
    "ids beyond": filled(lambda b: npy([60000] * 10)),
    "negative ids": filled(lambda b: npy([2**32 - 5] * 10, "<i4", size=4)),
}
LINES = {
    "a list": line("[1]"),
    "half a line": line('{"text": "x'),
    "a number": line('{"text": 5}'),
    "no field": line('{"body": "x"}'),
    "half a pair of surrogates": line('{"text": "\\ud800"}'),
    "deep": line('{"text": ' + "[" * DEEP + "]" * DEEP + "}"),
    "a zero byte": filled(lambda b: b + b'{"text": "a\x00b"}\n'),
    "a key twice": line('{"text": "a", "text": "b"}'),
    "a number of 64 bits": line('{"text": "a", "hash": 18446744073709551615}'),
    "an infinite number": line('{"text": "a", "score": 1e999}'),
}


def member(change):
    """A JSON file with something else in it."""
    def make(before):
        tree = json.loads(before)
        change(tree)
        return json.dumps(tree).encode()
    return filled(make)


def kinds(*names):
    """Members that are of another kind than they should be."""
    return {f"{name} is {json.dumps(value)}": member(lambda tree, name=name, value=value: tree.update({name: value}))
            for name in names for value in ("x", [1], True)}


RESULT = kinds("steps", "tokens", "ranks", "validation_loss", "seconds", "sets", "parameters")
RECORD = kinds("key", "rho", "seed", "held_out", "validation_loss", "steps", "seconds", "documents")
del RECORD['held_out is "x"']  # a text
HF_CONFIG = {
    "negative sizes": member(lambda t: t.update(hidden_size=-1)),
    "huge sizes": member(lambda t: t.update(hidden_size=2**62, vocab_size=2**62)),
    "beyond 64 bits": member(lambda t: t.update(hidden_size=2**70)),
    "a NaN": filled(lambda b: b.replace(b"{", b'{"rope_theta": NaN, ', 1)),
    "text for a number": member(lambda t: t.update(hidden_size="x")),
    "another type": member(lambda t: t.update(model_type="llama")),
    "keys twice": filled(lambda b: b.replace(b"{", b'{"model_type": "mneme", ', 1)),
    "many layers": member(lambda t: t.update(num_hidden_layers=2**40)),
}


def header(change):
    """safetensors with another header: 8 bytes of its length, JSON, data."""
    def make(before):
        size = struct.unpack("<Q", before[:8])[0]
        tree = json.loads(before[8:8 + size])
        change(tree)
        head = json.dumps(tree).encode()
        return struct.pack("<Q", len(head)) + head + before[8 + size:]
    return filled(make)


def first_tensor(**values):
    def change(tree):
        tree[next(name for name in tree if name != "__metadata__")].update(values)
    return header(change)


SAFETENSORS = {
    "a header of 2^63 bytes": filled(lambda b: struct.pack("<Q", 2**63) + b[8:]),
    "a header of -1 bytes": filled(lambda b: struct.pack("<Q", 2**64 - 1) + b[8:]),
    "a deep header": filled(lambda b: struct.pack("<Q", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP),
    "offsets beyond": first_tensor(data_offsets=[0, 2**62]),
    "negative offsets": first_tensor(data_offsets=[-8, 0]),
    "a huge shape": first_tensor(shape=[2**62, 2**62]),
    "a negative shape": first_tensor(shape=[-1, -1]),
    "an unknown dtype": first_tensor(dtype="F3"),
    "no offsets": first_tensor(data_offsets=[]),
}
STEP = "run/checkpoints/step-2"
IDS = ["--eos", "1", "--text-bytes", "900", "--vocabulary", "10"]


# File, commands that read it, what is done to it beside ANY, exit codes; what of it may harm nothing (all of it: "*"; "verb: what": for one).
TABLE = [
    ("run.yaml", [["train", "run.yaml", "run.dir=new"], ["config", "resolve", "run.yaml"], ["plan", "run.yaml"]], YAML, {2},
     {"half", "one byte less", "config: empty", "tags"}),
    ("sweep.yaml", [["sweep", "sweep.yaml", "--dry-run"], ["sweep", "sweep.yaml", "folder=fresh"]], YAML, {2, 3}, {"half", "one byte less"}),
    ("device.yaml", [["plan", "run.yaml", "model.vocab_size=258", "--device", "device.yaml"]], YAML, {2}, {"half", "one byte less"}),
    ("text.txt", [["prepare", "--input", "text.txt", "--output", "new"]], {}, {2}, {"half", "one byte less"}),
    ("lines.jsonl", [["prepare", "--input", "lines.jsonl", "--output", "new"]], {**DEEP_JSON, **LINES}, {2},
     {"half", "one byte less", "a zero byte", "a number of 64 bits"}),
    ("ids.npy", [["prepare", "--input", "ids.npy", *IDS, "--output", "new"]], NPY, {2}, set()),
    ("map.npy", [["prepare", "--input", "ids.npy", *IDS, "--canonical", "map.npy", "--output", "new"]], NPY, {2}, set()),
    ("tokenizer.json", [["prepare", "--input", "ids.npy", *IDS, "--tokenizer-json", "tokenizer.json", "--output", "new"]],
     DEEP_JSON, {2, 3}, {"an empty object"}),
    ("corpus/train/manifest.json", [["train", "run.yaml", "run.dir=new"], ["prepare", "--input", "lines.jsonl", "--output", "corpus/train"]],
     DEEP_JSON, {2, 3}, set()),
    ("corpus/train/vocabulary.h5", [["train", "run.yaml", "run.dir=new"]], {}, {3}, set()),
    ("corpus/train/shard-00000.h5", [["train", "run.yaml", "run.dir=new"]], {}, {3}, set()),
    ("corpus/held_out/shard-00000.h5", [["evaluate", "run"], ["analyze", "run"]], {}, {3}, set()),
    (STEP + "/manifest.json", [["inspect", STEP], ["generate", STEP, "--prompt", "x", "--tokens", "1"],
                               ["convert", "--from", STEP, "--to", "new", "--format", "huggingface"]], DEEP_JSON, {3}, {"one byte less"}),
    (STEP + "/config.yaml", [["inspect", STEP], ["evaluate", STEP]], {}, {3}, set()),
    (STEP + "/rank-00000.h5", [["inspect", STEP], ["evaluate", STEP]], {}, {3}, set()),
    ("run/config.yaml", [["train", "run.yaml", "run.dir=run", "train.steps=3"]], YAML, {2, 3}, {"absent", "one byte less"}),
    ("run/metrics.jsonl", [["report", "run"], ["train", "run.yaml", "run.dir=run", "train.steps=3"]], DEEP_JSON, {1, 2, 3}, {"*"}),
    ("run/result.json", [["report", "run"], ["report", "run", "--json"]], {**DEEP_JSON, **RESULT}, {2, 3}, {"absent", "one byte less"}),
    ("run/result.json", [["train", "run.yaml", "run.dir=run"]], {**DEEP_JSON, **RESULT}, {1, 2, 3}, {"*"}),
    ("export/config.json", [["inspect", "export"], ["config", "from-hf", "export/config.json"],
                            ["convert", "--from", "export", "--to", "new", "--format", "mneme"]], {**DEEP_JSON, **HF_CONFIG}, {2, 3},
     {"one byte less", "inspect: *"}),
    ("export/model.safetensors", [["inspect", "export"], ["inspect", "export/model.safetensors"],
                                  ["convert", "--from", "export", "--to", "new", "--format", "mneme"]], SAFETENSORS, {2, 3}, set()),
    ("export/mneme.json", [["convert", "--from", "export", "--to", "new", "--format", "mneme"]], DEEP_JSON, {2, 3}, {"*"}),
    ("export/vocabulary.h5", [["convert", "--from", "export", "--to", "new", "--format", "mneme"]], {}, {2, 3}, {"*"}),
    ("export/certificate.json", [["convert", "--from", "run", "--to", "export", "--format", "huggingface", "--no-logits", "--replace"]],
     {**DEEP_JSON, **kinds("certificate", "to")}, {2}, {"one byte less"}),
    ("cells.jsonl", [["sweep", "--fit", "cells.jsonl"]], {**DEEP_JSON, **CELLS}, {2, 3}, {"one byte less", "half"}),
    ("cells.csv", [["sweep", "--fit", "cells.csv"]], CSV, {2, 3}, {"one byte less", "half"}),
    ("out/cells/DONE/done.json", [["sweep", "sweep.yaml", "--status"]], {**DEEP_JSON, **RECORD}, set(), {"*"}),
    ("out/cells/DONE/done.json", [["sweep", "sweep.yaml", "run.attempts=2"], ["sweep", "sweep.yaml", "--bundle", "new"],
                                  ["sweep", "sweep.yaml", "folder=fresh", "--merge", "out"]], {**DEEP_JSON, **RECORD}, {2, 3},
     {"one byte less", "sweep: absent"}),
    ("out/cells/DONE/documents.json", [["sweep", "sweep.yaml", "run.attempts=2"], ["sweep", "sweep.yaml", "--bundle", "new"]], DEEP_JSON, {2, 3},
     {"one byte less"}),
    ("out/cells/LEFT/lease.1", [["sweep", "sweep.yaml", "--status"], ["sweep", "sweep.yaml", "run.attempts=2"]], {},
     {2, 3}, {"*"}),
    ("out/cells/LEFT/alone", [["sweep", "sweep.yaml", "run.attempts=2", "run.side_by_side=2"]], {}, {2, 3}, {"*"}),
    ("out/cells/FAILED/failed.1.json", [["sweep", "sweep.yaml", "--status"], ["sweep", "sweep.yaml", "--status", "--json"]], DEEP_JSON,
     {2, 3}, {"*"}),
    ("packed/MANIFEST", [["sweep", "--verify", "packed"], ["sweep", "sweep.yaml", "folder=fresh", "--merge", "packed"]], {}, {2, 3},
     {"one byte less"}),
    ("packed/results.jsonl", [["sweep", "--verify", "packed"], ["sweep", "sweep.yaml", "folder=fresh", "--merge", "packed"]], RECORD, {2, 3},
     set()),
    ("packed/fit_config.json", [["sweep", "--verify", "packed"]], DEEP_JSON, {2, 3}, set()),
    ("documents.json", [["sweep", "--fit", "with_documents.jsonl"]], DEEP_JSON, {2, 3}, set()),
]


def judge(name, ran, codes, harmless, folder, faults):
    def fault(what):
        faults.append(f"{name}: {what}; code {ran.code}: {ran.err[-600:]!r}")
    if ran.timed_out:
        return fault("hangs")
    if ran.code < 0 or ran.code >= 128 or any(word in ran.err for word in CRASH):
        return fault("crashes")
    if ran.code == 0:
        return None if harmless else fault("is taken as if nothing were wrong")
    if ran.code not in codes:
        return fault(f"exit code is none of {sorted(codes)}")
    said = [each for each in ran.err.splitlines() if each.startswith("mneme")]
    if len(said) != 1 or len(ran.err) > 4000:
        return fault(f"{len(said)} messages, {len(ran.err)} characters")
    left = [p for p in folder.iterdir() if p.name == "new" or ".preparing" in p.name or ".converting" in p.name]
    # A conversion keeps what is whole for the next try, a run its lock.
    left = [p for p in left if p.name != "new.converting"]
    if left:
        return fault(f"leaves {', '.join(p.name for p in left)}")
    return None


# ---- Outputs that take nothing

def small_files():
    limits()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def closed_output():
    limits()
    os.close(1)


def outputs(whole, top, words, faults):
    """Full and closed outputs. -> how many cases"""
    def fresh():
        shutil.rmtree(top / "case", ignore_errors=True)
        shutil.copytree(whole, top / "case")
        return top / "case"

    count = 0
    for command in (["config", "schema"], ["sweep", "--fit", "cells.csv"], ["report", "run"], ["--version"]):
        if all(word in f"{' '.join(command)} | full output" for word in words):
            with open("/dev/full", "wb") as full:
                ran = Ran(command, fresh(), stdout=full)
            if ran.code != 1 or "standard output: cannot write: No space left on device" not in ran.err:
                faults.append(f"{command} to /dev/full: code {ran.code}: {ran.err[-300:]!r}")
            count += 1
    big = "".join(f"a line of text, number {i}\n" for i in range(4000))
    for command, made in ((["prepare", "--input", "big.txt", "--output", "new"], "new"),
                          (["train", "run.yaml", "run.dir=new"], "new/checkpoints/step-1"),
                          (["convert", "--from", "run", "--to", "new", "--format", "huggingface", "--no-logits"], "new")):
        if all(word in f"{' '.join(command)} | full disk" for word in words):
            folder = fresh()
            (folder / "big.txt").write_text(big)
            ran = Ran(command, folder, limit=small_files)
            if ran.code != 1 or "File too large; free some space" not in ran.err or (folder / made).exists():
                faults.append(f"{command} on a full disk: code {ran.code}: {ran.err[-300:]!r}")
            count += 1
    if all(word in "prepare | closed output" for word in words):
        folder = fresh()
        command = ["prepare", "--json", "--input", "text.txt", "--output", "new"]
        codes = [Ran(command, folder, stdout=None, limit=closed_output).code for _ in range(2)]
        again = Ran(command, folder)
        if codes != [0, 0] or b'"already_there": true' not in again.out:
            faults.append(f"a closed output: codes {codes}, then {again.err!r}")
        count += 1
    return count


def main():
    words = sys.argv[2:]
    faults, count, largest = [], 0, MOST_BYTES
    with tempfile.TemporaryDirectory(prefix="mneme_hostile_") as top:
        # Made where the cases will stand, since a run's config holds whole paths.
        whole, case = pathlib.Path(top) / "whole", pathlib.Path(top) / "case"
        case.mkdir()
        keys = prepared(case)
        case.rename(whole)
        for path, commands, own, codes, harmless in TABLE:
            for what, spoil in {**ANY, **own}.items():
                for command in commands:
                    name = f"{' '.join(command)} | {path} | {what}"
                    if not all(word in name for word in words):
                        continue
                    shutil.copytree(whole, case)
                    place = path
                    for word, key in zip(("DONE", "LEFT", "FAILED"), keys):
                        place = place.replace(word, key)
                    spoil(case / place)
                    ran = Ran(command, case)
                    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
                    before = len(faults)
                    judge(name, ran, codes, {what, "*", f"{command[0]}: {what}", f"{command[0]}: *"} & harmless, case, faults)
                    if peak > largest:
                        faults.append(f"{name}: took {peak >> 20} MB")
                        largest = peak
                    for each in faults[before:]:
                        print("hostile_test:", each, flush=True)
                    shutil.rmtree(case)
                    count += 1
        before = len(faults)
        count += outputs(whole, pathlib.Path(top), words, faults)
        for each in faults[before:]:
            print("hostile_test:", each, flush=True)
    print(f"hostile_test: {count} cases, {len(faults)} faults")
    sys.exit(1 if faults or not count else 0)


if __name__ == "__main__":
    main()
