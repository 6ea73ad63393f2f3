#!/usr/bin/env python3
"""How the novels were taken out of Debian's r-cran-janeaustenr 1.0.0-1.

usage: apt-get download r-cran-janeaustenr && extract.py r-cran-janeaustenr_*.deb FOLDER && xz -9e FOLDER/*.txt
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "recipes"))
import readers  # noqa: E402

archive, folder = map(pathlib.Path, sys.argv[1:])
reader = readers.READERS["r"]
for text in reader.texts(readers.files(archive, re.compile(reader.paths).search)):
    name = text.split("\n", 1)[0].lower().replace(" ", "_")
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
