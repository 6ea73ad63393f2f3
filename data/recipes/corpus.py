#!/usr/bin/env python3
"""Makes a training corpus out of packages: texts, documents, a held-out split, a BPE, ids, and `mneme prepare`.

  corpus.py --output corpora/small                               the corpus of configs/sweeps/small_h200.yaml
  corpus.py --output corpora/large --classes KRFZTPM             with the other languages
  corpus.py --output corpora/mine --text mine.jsonl              your own documents in the place of the packages
  corpus.py --list                                               the packages, with sizes and licences
  corpus.py --lock                                               takes versions and sums of today into packages.tsv

Needs Debian 12 (apt-get, dpkg-deb; for class P poppler-utils and poppler-data) and Python 3.11 with `pip install tokenizers numpy`.
Typed again it repeats nothing that is whole; the same packages and options give the same bytes. See docs/corpus.md.
"""
import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import lzma
import os
import pathlib
import platform
import re
import sqlite3
import struct
import subprocess
import sys
import time
import zlib

import documents as d
import packages as pk
import readers
from packages import RecipeError

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
BEGIN = time.monotonic()


def say(line):
    print(f"{time.monotonic() - BEGIN:7.1f} s  {line}", flush=True)


# ---- Texts

def rules():
    """Of the code that makes texts: when it changes, they are made again."""
    return hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("documents.py", "readers.py"))).hexdigest()


# pdftotext, and the tables without which it leaves Chinese out of some files.
PDF_TOOLS = ("poppler-utils", "poppler-data")


def installed(name):
    """Version of a Debian package, or none."""
    state, _, version = pk.run("dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", name).stdout.partition(" ")
    return version if state == "installed" else "none"


def extract(package, archive, target, code):
    """Writes the package's texts, a JSON string a line below a line that says what they were made from."""
    made_from = [package.group, package.sha256, package.reader, package.paths, code]
    if package.reader == "pdf":
        made_from += [installed(name) for name in PDF_TOOLS]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    if target.exists():
        with open(target, encoding="utf-8") as f:
            if f.readline().strip() == key:
                return
    reader, texts = readers.READERS[package.reader], 0
    try:
        with pk.replaced(target) as new, open(new, "w", encoding="utf-8") as f:
            f.write(key + "\n")
            for text in reader.texts(readers.files(archive, readers.chooser(package))):
                text = d.clean(text, package.group, reader.wrapped)
                if text:
                    f.write(json.dumps(text, ensure_ascii=False) + "\n")
                    texts += 1
            if texts == 0:
                raise ValueError("no text in it")
    except (ValueError, KeyError, AssertionError, struct.error, zlib.error, sqlite3.Error) as why:
        raise RecipeError(f"{package.label}: reader {package.reader} cannot read {archive} ({why or type(why).__name__}); "
                          f"leave it out with --without {package.label}") from None


def package_texts(chosen, work, accept_changed, jobs):
    """Fetches and reads all. -> [(package as it was got, file of its texts)]"""
    got, archives = [], {}
    for package in chosen:
        readers.chooser(package)
        if package.name not in archives:
            archives[package.name] = pk.fetch(package, work / "packages", accept_changed)
        now = archives[package.name][0]
        got.append(dataclasses.replace(package, version=now.version, bytes=now.bytes, sha256=now.sha256))
    say(f"{len(archives)} packages, {sum(now.bytes for now, _ in archives.values()) / 1e6:.0f} MB")
    targets = [work / "texts" / package.group / f"{package.name}.jsonl" for package in got]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        code = rules()
        order = sorted(zip(got, targets), key=lambda pair: -pair[0].bytes)  # the longest first
        for future in [pool.submit(extract, p, archives[p.name][1], t, code) for p, t in order]:
            future.result()
    say("texts read")
    return list(zip(got, targets))


def read_texts(path):
    with open(path, encoding="utf-8") as f:
        next(f)
        for line in f:
            yield json.loads(line)


def own_documents(path, field):
    """The documents of a user's file: a JSON line each, or of plain text blank-line blocks to about 20 kB."""
    opener = lzma.open if path.endswith(".xz") else open
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as f:
            if not path.removesuffix(".xz").endswith((".jsonl", ".ndjson")):
                yield from d.pieces(f.read().replace("\0", " "), d.LARGE)
                return
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                try:
                    text = json.loads(line)[field]
                except (ValueError, KeyError, TypeError):
                    text = None
                if not isinstance(text, str):
                    raise RecipeError(f"{path}:{number}: not a JSON object with a string {field!r} (--text-field names another)")
                yield text
    except (OSError, lzma.LZMAError) as why:
        raise RecipeError(f"{path}: cannot be read: {why}") from None


# ---- Sides

@dataclasses.dataclass
class Sides:
    """Documents by class: train and held_out of the split, apart of packages that are never trained on."""
    train: dict
    held_out: dict
    apart: dict
    sources: list  # of the manifest
    dropped: dict  # held-out documents that were found again in training ones, by class

    @classmethod
    def empty(cls):
        return cls({}, {}, {}, [], {})

    def add(self, group, side, texts, share):
        where = {"documents": 0, "held_out": 0, "text_bytes": 0}
        for text in texts:
            out = side == "held_out" or d.is_held_out(text, share)
            place = self.apart if side == "held_out" else self.held_out if out else self.train
            place.setdefault(group, []).append(text)
            where["documents"] += 1
            where["held_out"] += out
            where["text_bytes"] += len(text.encode())
        return where


def package_sides(chosen, texts, share):
    sides, unrepeated = Sides.empty(), d.Unrepeated()
    for wanted, (package, path) in zip(chosen, texts):
        made = d.gathered(unrepeated.text(text, package.group) for text in read_texts(path))
        counts = sides.add(package.group, package.side, made, share)
        source = {**dataclasses.asdict(package), **counts}
        if package.sha256 != wanted.sha256:
            source["changed_from"] = {"version": wanted.version, "bytes": wanted.bytes, "sha256": wanted.sha256}
        sides.sources.append(source)
        say(f"{package.label:36} {counts['text_bytes'] / 1e6:8.2f} MB {counts['documents']:6d} documents")
    return sides


def own_sides(paths, field, share):
    sides, unrepeated = Sides.empty(), d.Unrepeated()
    for path in paths:
        made = (text for text in own_documents(path, field) if text.strip() and unrepeated.first_time(text))
        counts = sides.add("text", "train", made, share)
        sides.sources.append({"file": os.path.basename(path), "bytes": os.path.getsize(path), "sha256": pk.sha256(path), **counts})
        say(f"{path}: {counts['documents']} documents")
    return sides


def drop_found_again(sides, most):
    """Leaves out of the held-out sides what training documents say too."""
    train = [text for texts in sides.train.values() for text in texts]
    places = [(side, group, text) for side in (sides.held_out, sides.apart) for group, texts in side.items() for text in texts]
    shares = d.found_again([text for _, _, text in places], train)
    for side in (sides.held_out, sides.apart):
        for group in side:
            side[group] = []
    for (side, group, text), share in zip(places, shares):
        counts = sides.dropped.setdefault(("apart " if side is sides.apart else "") + group, [0, 0])
        counts[0] += 1
        if share > most:
            counts[1] += 1
        else:
            side[group].append(text)
    for group, (total, dropped) in sides.dropped.items():
        say(f"held out, {group}: {dropped} of {total} documents found again in training ones, left out")


def shuffled(texts):
    """By digest: an order that a document keeps when others come or go."""
    return sorted(texts, key=d.digest)


# ---- Ids and corpora

def write_ids(path, ids):
    import numpy as np  # pylint: disable=import-outside-toplevel
    with pk.replaced(path) as new, open(new, "wb") as f:
        np.save(f, np.concatenate(ids))


def make_tokenizer(train, options):
    """-> tokenizer, ids of the end of a document and of padding: a BPE of the documents, or one of elsewhere."""
    import tokens  # pylint: disable=import-outside-toplevel
    if options.tokenizer:
        try:
            tokenizer = tokens.made_elsewhere(options.tokenizer)
        except Exception as why:  # pylint: disable=broad-exception-caught
            raise RecipeError(f"{options.tokenizer}: no tokenizer.json that can be read: {why}") from None
        marks = [tokenizer.token_to_id(options.eos), tokenizer.token_to_id(options.pad or options.eos)]
        if None in marks:
            raise RecipeError(f"{options.tokenizer}: has no token {[options.eos, options.pad][marks.index(None)]!r}; "
                              "--eos and --pad name two of its own")
        return tokenizer, *marks
    tokenizer = tokens.trained(train, options.vocabulary, int(options.bpe_sample * 1e6))
    if tokenizer.get_vocab_size() != options.vocabulary:
        raise RecipeError(f"the documents give a BPE of {tokenizer.get_vocab_size()} entries only, not {options.vocabulary}: "
                          "more text is needed, or a smaller --vocabulary")
    return tokenizer, tokens.EOS, tokens.PAD


def make_ids(sides, options, folder):
    """-> counts of each corpus: the split's two sides, its held-out side by class, and what stands apart."""
    import tokens  # pylint: disable=import-outside-toplevel
    train = shuffled(text for texts in sides.train.values() for text in texts)
    tokenizer, eos, pad = make_tokenizer(train, options)
    with pk.replaced(folder / "tokenizer.json") as new:
        tokenizer.save(str(new))
    canonical = tokens.canonical_map(tokenizer)
    write_ids(folder / "canonical.npy", [canonical])
    say(f"a tokenizer of {len(canonical)} entries, {canonical.max() + 1} canonical ids")

    wanted = [("train", train, options.train_ids)]
    wanted.append(("held_out", shuffled(text for texts in sides.held_out.values() for text in texts), options.held_out_ids))
    if len(sides.held_out) > 1:
        wanted += [(f"held_out_{group}", shuffled(texts), 0) for group, texts in sides.held_out.items()]
    wanted += [(f"apart_{group}", shuffled(texts), 0) for group, texts in sides.apart.items()]
    group_of = {d.digest(text): group for group, texts in sides.train.items() for text in texts}
    made = {}
    for name, texts, limit in wanted:
        if not texts:
            if name in ("train", "held_out"):
                raise RecipeError(f"no document is left for {name}: more text is needed, or another --held-out")
            continue
        ids = tokens.encoded(tokenizer, texts, limit, eos)
        texts = texts[:len(ids)]
        write_ids(folder / f"{name}.npy", ids)
        made[name] = {"tokens": sum(map(len, ids)), "documents": len(ids), "text_bytes": sum(len(t.encode()) for t in texts),
                      "sha256": pk.sha256(folder / f"{name}.npy")}
        if name == "train" and len(sides.train) > 1:
            by_group = dict.fromkeys(sides.train, 0)
            for text, array in zip(texts, ids):
                by_group[group_of[d.digest(text)]] += len(array)
            made[name]["tokens_by_class"] = by_group
        say(f"{name}: {made[name]['tokens']} tokens, {made[name]['documents']} documents, {made[name]['text_bytes']} bytes")
    return made, {"vocabulary": len(canonical), "canonical": int(canonical.max()) + 1, "eos": eos, "pad": pad,
                  "tokenizer_sha256": pk.sha256(folder / "tokenizer.json"),
                  "canonical_sha256": pk.sha256(folder / "canonical.npy")}


def prepare(program, made, vocabulary, output):
    for name, counts in made.items():
        command = [program, "prepare", "--json", "--replace", "--input", output / "ids" / f"{name}.npy", "--output", output / name,
                   "--eos", vocabulary["eos"], "--pad", vocabulary["pad"], "--canonical", output / "ids" / "canonical.npy",
                   "--tokenizer-json", output / "ids" / "tokenizer.json", "--text-bytes", counts["text_bytes"]]
        got = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if got.returncode:
            raise RecipeError(f"{program} prepare failed for {name}: {got.stderr.strip()}")
        counts["digest"] = json.loads(got.stdout)["corpora"][0]["digest"]


# ---- The whole

# What the recipe, and `prepare` for it, leave in the output folder and in its ids/.
OWN = re.compile(r"ids|train|held_out(_\w+)?|apart_\w+|manifest\.json|\.lock|\.manifest\.json\.new|\.\w+\.preparing(\.old)?")
OWN_IDS = re.compile(r"\w+\.npy|tokenizer\.json|\.[\w.]+\.new")


def check_output(output):
    """A folder that holds anything but what a recipe made is nobody's to write over: its ids and manifest would go."""
    if not output.exists() and not output.is_symlink():
        return
    if not output.is_dir():
        raise RecipeError(f"{output}: is no folder; name another one")
    foreign = [p.name for p in output.iterdir() if not OWN.fullmatch(p.name)]
    ids, manifest = output / "ids", output / "manifest.json"
    if ids.is_dir():
        foreign += [f"ids/{p.name}" for p in ids.iterdir() if not OWN_IDS.fullmatch(p.name)]
        if not (output / ".lock").exists() and not manifest.exists():  # the lock comes first, the manifest last
            foreign.append("ids")
    try:
        if manifest.exists() and json.loads(manifest.read_bytes()).get("format") != "mneme-recipe":
            foreign.append("manifest.json")
    except (OSError, ValueError, AttributeError):
        foreign.append("manifest.json")
    if foreign:
        raise RecipeError(f"{output}: holds something else already: {', '.join(sorted(foreign)[:4])}; nothing was changed. Name "
                          "another folder, or move that elsewhere")


def tool_versions(own):
    import numpy  # pylint: disable=import-outside-toplevel
    import tokenizers  # pylint: disable=import-outside-toplevel
    versions = {"python": platform.python_version(), "numpy": numpy.__version__, "tokenizers": tokenizers.__version__}
    if not own:
        versions |= {name: installed(name) for name in PDF_TOOLS}
    return versions


def choose(table, classes, without):
    unknown = set(classes) - {p.group for p in table}
    if unknown:
        raise RecipeError(f"--classes: no package is of class {', '.join(sorted(unknown))}")
    labels = {p.label for p in table}
    for label in without:
        if label not in labels:
            raise RecipeError(f"--without: {label} is no line of packages.tsv (class/package, as --list prints them)")
    return [p for p in table if p.group in classes and p.label not in without]


def build(a):
    output, work = pathlib.Path(a.output), pathlib.Path(a.work)
    try:
        versions = tool_versions(bool(a.text))
    except ImportError as why:
        raise RecipeError(f"{why}: pip install tokenizers numpy (in a virtual environment)") from None
    if not a.ids_only and not os.access(a.program, os.X_OK):
        raise RecipeError(f"{a.program}: no program; build it (launch/build.sh), name it (--program), or stop at ids (--ids-only)")
    check_output(output)

    chosen = [] if a.text else choose(pk.read_table(), a.classes, a.without)
    missing = [name for name in PDF_TOOLS if versions.get(name) == "none"]
    unread = sorted({p.group for p in chosen if p.reader == "pdf"})
    if missing and unread:
        raise RecipeError(f"class {', '.join(unread)}: PDFs are read with {' and '.join(missing)}: apt-get install {' '.join(missing)}, or "
                          "leave the class out (--classes)")
    locks = [pk.locked(folder) for folder in ([output] if a.text else [output, work])]
    if a.text:
        sides = own_sides(a.text, a.text_field, a.held_out)
    else:
        sides = package_sides(chosen, package_texts(chosen, work, a.accept_changed, a.jobs), a.held_out)
    drop_found_again(sides, a.found_again)

    (output / "manifest.json").unlink(missing_ok=True)  # it says that the rest is whole
    made, vocabulary = make_ids(sides, a, output / "ids")
    if not a.ids_only:
        prepare(a.program, made, vocabulary, output)
    options = {"held_out": a.held_out, "found_again": a.found_again, "vocabulary": a.vocabulary, "bpe_sample": a.bpe_sample,
               "train_ids": a.train_ids, "held_out_ids": a.held_out_ids}
    manifest = {"format": "mneme-recipe", "version": 1, "rules": rules(), "tools": versions, "options": options,
                "vocabulary": vocabulary, "corpora": made, "found_again": sides.dropped, "sources": sides.sources}
    with pk.replaced(output / "manifest.json") as new:
        new.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{output / 'manifest.json'}: sha256 {pk.sha256(output / 'manifest.json')}")
    for lock in locks:
        lock.close()


def show(table):
    sizes = {}
    for p in table:
        print(f"{p.label:40} {p.version:28} {p.bytes / 1e6:7.1f} MB  {'held out  ' if p.side == 'held_out' else ''}{p.licence}")
        sizes.setdefault(p.group, {})[p.name] = p.bytes
    for group, by_name in sizes.items():
        print(f"class {group}: {len(by_name)} packages, {sum(by_name.values()) / 1e6:.0f} MB")


def lock(table):
    now = {}
    for p in table:
        now[p.name] = now.get(p.name) or pk.offered(p)
        if now[p.name].sha256 != p.sha256:
            print(f"{p.label}: {p.version} {p.sha256} -> {now[p.name].version} {now[p.name].sha256}")
    pk.write_table([dataclasses.replace(p, version=now[p.name].version, bytes=now[p.name].bytes, sha256=now[p.name].sha256)
                    for p in table])


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", help="folder of the corpora: train, held_out, held_out_CLASS, apart_CLASS, ids, manifest.json")
    p.add_argument("--work", default=str(ROOT / "build" / "recipe"), help="packages and texts, kept for the next time")
    p.add_argument("--program", default=str(ROOT / "build" / "mneme"), help="whose `prepare` makes the corpora")
    p.add_argument("--ids-only", action="store_true", help="stop at the .npy files")
    p.add_argument("--classes", default="KRFZTPW", help="letters of the table (default KRFZTPW)")
    p.add_argument("--without", nargs="+", default=[], metavar="CLASS/PACKAGE", help="leave these out")
    p.add_argument("--accept-changed", action="store_true", help="take a package that is not the table's, and say so")
    p.add_argument("--text", nargs="+", metavar="FILE", help="your own .jsonl, .ndjson or text, plain or .xz, instead of packages")
    p.add_argument("--text-field", default="text", help="of a JSON line")
    p.add_argument("--held-out", type=float, default=0.02, help="share of the documents set aside (0.02)")
    p.add_argument("--found-again", type=float, default=0.2,
                   help="a held-out document is left out if more than this share of its 13-word sequences is in training text")
    p.add_argument("--vocabulary", type=int, default=32768, help="entries of the BPE, at most 65536 (32768)")
    p.add_argument("--bpe-sample", type=float, default=100.0, help="million characters that the BPE is trained on (100)")
    p.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json of elsewhere, plain or .xz, in place of a BPE; with --eos")
    p.add_argument("--eos", metavar="TOKEN", help="its token that ends a document")
    p.add_argument("--pad", metavar="TOKEN", help="its token that pads; --eos where it has none")
    p.add_argument("--train-ids", type=int, default=0, help="stop training documents after so many ids; 0 takes all")
    p.add_argument("--held-out-ids", type=int, default=0, help="the same for held-out documents")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that read packages")
    p.add_argument("--list", action="store_true", help="print the table and stop")
    p.add_argument("--lock", action="store_true", help="renew the table's versions, sizes and sums, and stop")
    a = p.parse_args()
    if not (a.list or a.lock or a.output):
        p.error("--output is needed")
    if not 300 <= a.vocabulary <= 65536:
        p.error("--vocabulary: at least 300, and ids are written as u16: at most 65536")
    if bool(a.tokenizer) != bool(a.eos):
        p.error("--tokenizer and --eos go together")
    if not (0.0 < a.held_out < 1.0 and 0.0 <= a.found_again <= 1.0):
        p.error("--held-out must be between 0 and 1, --found-again from 0 to 1")
    return a


def main():
    a = arguments()
    try:
        if a.list:
            show(pk.read_table())
        elif a.lock:
            lock(pk.read_table())
        else:
            build(a)
    except RecipeError as why:
        sys.exit(f"corpus.py: {why}")
    except BrokenPipeError:  # of --list
        os._exit(1)
    except KeyboardInterrupt:
        sys.exit("corpus.py: stopped; what is whole is kept, the same command goes on")


if __name__ == "__main__":
    main()
