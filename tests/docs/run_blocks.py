#!/usr/bin/env python3
"""Runs every fenced `sh` block of README.md, docs/ and the rooms' READMEs, as a reader would type it.

    run_blocks.py ROOT BUILD [--list] [FILE...]

A block fenced as ```sh no-run is not run; it should say why beside it. The blocks of one document run in one scratch
folder, one after the other, which is a copy of the checkout with BUILD as `build`; what they write stays there. A block fails
with the first of its lines that fails.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

FENCE = re.compile(r"^```(\S*)[ ]*(.*)$")


def blocks(path):
    """-> [(line number, text, runs)] of the document's sh blocks."""
    found, inside, start = [], None, 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if inside is not None and line.strip() == "```":
            language, words = inside
            if language in ("sh", "bash", "shell"):
                found.append((start, "\n".join(text), "no-run" not in words))
            inside = None
        elif inside is None and fence:
            inside, start, text = (fence[1], fence[2].split()), number, []
        elif inside is not None:
            text.append(line)
    if inside is not None:
        sys.exit(f"{path}:{start}: a fence without an end")
    return found


def documents(root):
    rooms = sorted(p.parent for p in root.glob("*/CMakeLists.txt"))
    paths = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    paths += [room / "README.md" for room in rooms]
    paths += sorted((root / "tests").glob("*/README.md"))
    return [p for p in paths if p.is_file()]


def scratch(root, build, folder):
    """The checkout again, without what runs and builds have written."""

    def skip(place, names):
        return [n for n in names if n in (".git", "__pycache__") or
                pathlib.Path(place) == root and (n in ("runs", "corpora") or n.startswith("build"))]

    shutil.copytree(root, folder, ignore=skip, dirs_exist_ok=True)
    (folder / "build").symlink_to(build)


def run(text, folder):
    environment = dict(os.environ, CI="true", NO_COLOR="1")
    script = "set -euo pipefail\n. launch/env.sh\n" + text
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--list"]
    root, build = pathlib.Path(arguments[0]).resolve(), pathlib.Path(arguments[1]).resolve()
    chosen = [pathlib.Path(a).resolve() for a in arguments[2:]] or documents(root)
    ran = kept = 0
    failures = []
    for document in chosen:
        name = document.relative_to(root)
        with tempfile.TemporaryDirectory(prefix="mneme-docs-") as place:
            folder = pathlib.Path(place)
            scratch(root, build, folder)
            for line, text, runs in blocks(document):
                if "--list" in sys.argv or not runs:
                    print(f"{name}:{line}: {'runs' if runs else 'marked no-run'}")
                    kept += not runs
                    continue
                begin = time.time()
                result = run(text, folder)
                ran += 1
                print(f"{name}:{line}: exit {result.returncode} after {time.time() - begin:.1f} s", flush=True)
                if result.returncode:
                    failures.append(f"{name}:{line}")
                    print(text, "----", result.stdout[-3000:], sep="\n")
    print(f"{ran} blocks run, {kept} marked no-run, {len(failures)} failed" + "".join(f"\n  {f}" for f in failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
