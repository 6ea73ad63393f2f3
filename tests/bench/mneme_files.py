"""What Mneme writes, read from Python: resolved configurations, checkpoints, corpora; the order of samples, the initial rows.

The formats are those of docs/checkpoint_format.md and docs/corpus_format.md, the order that of data/order.h, the random
numbers those of kernels/core/random.h. Needs numpy, pyyaml and h5py.
"""

import json
import pathlib
import re

import h5py
import numpy as np
import yaml

NUMBER = re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+)?")
M64 = (1 << 64) - 1


def read_config(path):
    """A resolved configuration (`mneme config resolve`, or a run's or a checkpoint's config.yaml) as nested dicts."""

    def numbers(x):
        if isinstance(x, dict):
            return {k: numbers(v) for k, v in x.items()}
        if isinstance(x, list):
            return [numbers(v) for v in x]
        return float(x) if isinstance(x, str) and NUMBER.fullmatch(x) else x  # YAML 1.1 takes 1e-20 for text

    return numbers(yaml.safe_load(pathlib.Path(path).read_text()))


class Checkpoint:
    """One step-N folder. values/adam_m/...: kind -> piece name -> array; tables: name -> {ids, values, m, v}."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.position = self.manifest["position"]
        files = {name: h5py.File(folder / name) for name in self.manifest["files"] if name.endswith(".h5")}
        self.pieces, self.tables = {}, {}
        for s in self.manifest["slices"]:
            whole = self.pieces.setdefault(s["kind"], {}).setdefault(s["name"], np.empty(s["shape"], np.float32))
            begin, end = s["row_range"]
            whole[begin:end] = files[s["file"]][s["dataset"]][()].reshape(end - begin, -1)
        for t in self.manifest["tables"]:
            parts = self.tables.setdefault(t["name"], {k: [] for k in ("ids", "values", "m", "v")})
            group = files[t["file"]][t["group"]]
            for k in parts:
                parts[k].append(group[k][()])
        self.tables = {n: {k: np.concatenate(v) for k, v in t.items()} for n, t in self.tables.items()}


# --- random numbers -------------------------------------------------------------------------------------------------


def _mix(z):
    z = (z + 0x9E3779B97F4A7C15) & M64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & M64
    return z ^ (z >> 31)


def make_key(seed, name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & M64
    key = _mix(h ^ _mix(seed & M64))
    return key & 0xFFFFFFFF, key >> 32


def random_bits(key, index):
    """64 bits a draw; index: array of uint64."""
    index = np.asarray(index, np.uint64)
    low32, s32 = np.uint64(0xFFFFFFFF), np.uint64(32)
    block = index >> np.uint64(1)
    c = [block & low32, block >> s32, np.zeros_like(block), np.zeros_like(block)]
    k0, k1 = key
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> s32) ^ c[1] ^ np.uint64(k0), b & low32, (a >> s32) ^ c[3] ^ np.uint64(k1), a & low32]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    odd = (index & np.uint64(1)).astype(bool)
    return np.where(odd, c[2] | c[3] << s32, c[0] | c[1] << s32)


# Wichura's AS 241: rising coefficients of numerator and denominator for the centre and the two tails.
CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3))
NEAR = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9))
FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15))


def _rational(pair, x):
    up, down = (np.polynomial.polynomial.polyval(x, c) for c in pair)
    return up / down


def normals(key, first, count, std):
    """Draws first .. first + count - 1 of a key, mean 0, as float32."""
    out = np.empty(count, np.float32)
    for at in range(0, count, 1 << 20):
        n = min(1 << 20, count - at)
        bits = random_bits(key, np.arange(first + at, first + at + n, dtype=np.uint64))
        q = ((bits >> np.uint64(11)).astype(np.int64) * 2 + 1 - (1 << 53)).astype(np.float64) * 2.0**-54
        r = np.sqrt(-np.log(0.5 - np.abs(q)))
        tail = np.where(r <= 5, _rational(NEAR, r - 1.6), _rational(FAR, r - 5))
        centre = q * _rational(CENTRE, 0.425**2 - q * q)
        out[at : at + n] = std * np.where(np.abs(q) <= 0.425, centre, np.copysign(tail, q))
    return out


def table_rows(checkpoint, name, rows, width, seed, std):
    """(values, m, v) of a whole table: rows that no update has moved are still what the seed makes them."""
    values = normals(make_key(seed, name), 0, rows * width, std).reshape(rows, width)
    m, v = np.zeros_like(values), np.zeros_like(values)
    moved = checkpoint.tables[name]
    for whole, part in ((values, "values"), (m, "m"), (v, "v")):
        whole[moved["ids"]] = moved[part].reshape(-1, width)
    return values, m, v


# --- data -----------------------------------------------------------------------------------------------------------


def _permute(key, index, n):
    if n == 1:
        return 0
    width = ((n - 1).bit_length() + 1) // 2
    mask = (1 << width) - 1
    while True:
        left, right = index >> width, index & mask
        for turn in range(6):
            left, right = right, left ^ (int(random_bits(key, [right << 3 | turn])[0]) & mask)
        index = left << width | right
        if index < n:
            return index


class Corpus:
    """Batches of one prepared corpus, the same as Mneme's (data/loader.h)."""

    def __init__(self, data, length):
        if len(data["train"]) != 1 or data["bos"]:
            raise SystemExit("one corpus without bos is what this reader knows")
        folder = pathlib.Path(data["train"][0])
        manifest = json.loads((folder / "manifest.json").read_text())
        shards = [h5py.File(folder / s["file"]) for s in manifest["shards"]]
        sizes = [len(s["tokens"]) for s in shards]
        offsets = np.cumsum([0, *sizes[:-1]])
        self.tokens = np.concatenate([s["tokens"][()] for s in shards]).astype(np.int32)
        self.begins = np.concatenate([s["document_begins"][()] + o for s, o in zip(shards, offsets)])
        vocabulary = h5py.File(folder / manifest["vocabulary"]["file"])
        size, eos, _, pad, canonical_size = (int(x) for x in vocabulary["ids"][()])
        self.vocabulary_size, self.canonical_size = size, canonical_size
        self.canonical = vocabulary["canonical"][()].astype(np.int64)
        self.pad = pad if pad >= 0 else max(eos, 0)
        self.length, self.seed, self.reset = length, data["seed"], data["doc_boundary"] == "reset"
        self.samples = (len(self.tokens) - 1) // length

    def place(self, sample):
        key = make_key(self.seed, f"data.corpus.0.epoch.{sample // self.samples}")
        return _permute(key, sample % self.samples, self.samples) * self.length

    def batch(self, first, rows):
        """tokens, targets, doc_start, each int64 [rows, length]; targets of -1 are not counted."""
        begin = np.array([self.place(first + r) for r in range(rows)])[:, None]
        at = begin + np.arange(self.length + 1)
        ids = self.tokens[at].astype(np.int64)
        tokens, targets = ids[:, :-1], ids[:, 1:].copy()
        doc_start = np.zeros_like(tokens)
        if self.reset:
            document = np.searchsorted(self.begins, at, side="right")
            changed = document[:, 1:] != document[:, :-1]
            targets[changed] = -1
            starts = np.where(changed[:, :-1], np.arange(1, self.length), 0)
            doc_start[:, 1:] = np.maximum.accumulate(starts, axis=1)
        return tokens, targets, doc_start

    def canonical_map(self, vocabulary_size, compression):
        """(raw id -> hashed id, their number, pad), as engine/machine/machine.cc gives them to the hash."""
        if not compression:
            return np.arange(vocabulary_size), vocabulary_size, self.pad
        beyond = np.full(vocabulary_size - len(self.canonical), self.canonical[self.pad])
        return np.concatenate([self.canonical, beyond]), self.canonical_size, int(self.canonical[self.pad])


def learning_rate(schedule, peak, update, steps):
    """engine/update/learning_rate.cc for the shapes that benchmarks use."""
    warmup = schedule["warmup"]
    if update < warmup:
        return peak * update / warmup
    if schedule["shape"] == "constant":
        return peak
    if schedule["shape"] == "step":
        passed = [to for at, to in zip(schedule["decay_at"], schedule["decay_to"]) if update > at * steps]
        return peak * (passed[-1] if passed else 1.0)
    raise SystemExit("schedule shapes here: constant, step")

