#!/usr/bin/env python3
"""The training corpus made twice from its packages: the same bytes both times, and the sums that docs/results records.

corpus_twice.py --mneme build/mneme [--classes KRFZTPW] [--folder build/corpus_twice] [--packages build/recipe/packages]

Needs what data/recipes/corpus.py needs. Both times everything is read and made anew; packages are fetched once into
--packages and linked. Sums are compared with docs/results/corpus_small.json where classes and tools are those it names.
Exit 77 where PyPI's tokenizers or numpy are not there.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "results" / "corpus_small.json"


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def build(a, folder):
    work, output = folder / "work", folder / "corpus"
    (work / "packages").mkdir(parents=True)
    for package in a.packages.iterdir():
        os.link(package, work / "packages" / package.name)
    subprocess.run([sys.executable, ROOT / "data" / "recipes" / "corpus.py", "--output", output, "--work", work, "--program", a.mneme,
                    "--classes", a.classes], check=True)
    for package in (work / "packages").iterdir():
        if not (a.packages / package.name).exists():
            os.link(package, a.packages / package.name)
    shutil.rmtree(work)
    return digests(output)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mneme", required=True)
    p.add_argument("--classes", default="KRFZTPW")
    p.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "corpus_twice", help="must not be there, or be of an earlier call")
    p.add_argument("--packages", type=pathlib.Path, default=ROOT / "build" / "recipe" / "packages")
    a = p.parse_args()
    try:
        import numpy  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as why:
        print(f"{why}: pip install tokenizers numpy")
        sys.exit(77)
    a.packages.mkdir(parents=True, exist_ok=True)
    if a.folder.exists() and {p.name for p in a.folder.iterdir()} - {"one", "two"}:
        sys.exit(f"corpus_twice: {a.folder}: holds something else already; name another folder")
    shutil.rmtree(a.folder, ignore_errors=True)
    first, second = build(a, a.folder / "one"), build(a, a.folder / "two")
    differing = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    if differing:
        sys.exit(f"corpus_twice: not the same bytes: {', '.join(sorted(differing))}")
    print(f"corpus_twice: {len(first)} files, the same bytes twice")
    made, record = (json.loads(f.read_text()) for f in (a.folder / "one" / "corpus" / "manifest.json", RECORD))
    del made["rules"], record["rules"]  # of the code: it may change and make the same
    for key in ("tools", "options"):
        if made[key] != record[key] or a.classes != "KRFZTPW":
            print(f"corpus_twice: not compared with {RECORD.name}: other {key} or classes")
            return
    if made != record:
        sys.exit(f"corpus_twice: {a.folder}/one/corpus/manifest.json is not {RECORD}")
    print(f"corpus_twice: the sums of {RECORD.name}")


if __name__ == "__main__":
    main()
