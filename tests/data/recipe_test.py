#!/usr/bin/env python3
"""data/recipes without a network: packages made here, and an apt that serves them from a folder."""
import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "data" / "recipes"
sys.path.insert(0, str(RECIPES))
import corpus  # noqa: E402
import documents  # noqa: E402
import packages  # noqa: E402
import readers  # noqa: E402
from packages import Package, RecipeError  # noqa: E402

APT_GET = """#!/bin/sh
echo "$@" >>"$REGISTRY/calls"
for last; do :; done
file="$REGISTRY/${last%%=*}_${last##*=}.deb"
[ -e "$REGISTRY/break" ] && { head -c 100 "$file" >"$(basename "$file")"; echo "connection reset" >&2; exit 100; }
[ -e "$file" ] || { echo "E: Version not found" >&2; exit 100; }
cp "$file" .
"""
APT_CACHE = """#!/bin/sh
for last; do :; done
for file in "$REGISTRY/${last}"_*.deb; do
  [ -e "$file" ] || exit 100
  version=${file##*_}
  echo "Package: $last"; echo "Version: ${version%.deb}"; echo "Size: $(stat -c %s "$file")"
  echo "SHA256: $(sha256sum "$file" | cut -d' ' -f1)"
done
"""


def words(count, seed):
    """Prose of a sort: words that no other seed has in this order."""
    return " ".join(hashlib.md5(f"{seed} {i}".encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))[:6]
                    for i in range(count))


def quiet():
    return contextlib.redirect_stdout(io.StringIO())


class Place(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.registry = self.folder / "registry"
        programs = self.folder / "programs"
        for folder in (self.registry, programs):
            folder.mkdir()
        for name, text in (("apt-get", APT_GET), ("apt-cache", APT_CACHE)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(REGISTRY=str(self.registry), PATH=f"{programs}:{os.environ['PATH']}")

    def package(self, name, files, version="1:1.0-1", **fields):
        """Puts a package into the registry. -> its line of the table"""
        tree = self.folder / "tree" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
                                                 "Maintainer: A <a@b>\nDescription: a\n")
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data if isinstance(data, bytes) else data.encode())
        target = self.registry / f"{name}_{version}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(target)], check=True, capture_output=True)
        line = {"group": "K", "side": "train", "reader": "html", "paths": "-", "licence": "PD"} | fields
        return Package(registry="deb", name=name, version=version, bytes=target.stat().st_size, sha256=packages.sha256(target), **line)

    def calls(self):
        path = self.registry / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


class Fetching(Place):
    def test_a_package_is_fetched_once_and_checked(self):
        package = self.package("novel", {"usr/a.html": "<p>x"})
        got, path = packages.fetch(package, self.folder / "cache")
        self.assertEqual(got, package)
        self.assertEqual(packages.sha256(path), package.sha256)
        packages.fetch(package, self.folder / "cache")
        self.assertEqual(self.calls(), 1)
        path.write_bytes(path.read_bytes()[:-1])  # a file that lost a byte is fetched again
        packages.fetch(package, self.folder / "cache")
        self.assertEqual(self.calls(), 2)
        self.assertEqual(packages.sha256(path), package.sha256)

    def test_a_broken_download_leaves_nothing_and_says_why(self):
        package = self.package("novel", {"usr/a.html": "<p>x"})
        (self.registry / "break").touch()
        with self.assertRaisesRegex(RecipeError, "K/novel: novel 1:1.0-1 cannot be had:\nconnection reset"):
            packages.fetch(package, self.folder / "cache")
        self.assertEqual(list((self.folder / "cache").iterdir()), [])
        (self.registry / "break").unlink()
        packages.fetch(package, self.folder / "cache")

    def test_a_changed_package_is_named_with_both_sums(self):
        old = self.package("novel", {"usr/a.html": "<p>x"})
        (self.registry / "novel_1:1.0-1.deb").unlink()
        new = self.package("novel", {"usr/a.html": "<p>y"}, version="1:1.0-2")
        with self.assertRaises(RecipeError) as raised:
            packages.fetch(old, self.folder / "cache")
        for word in ("K/novel", "1:1.0-1", old.sha256, "1:1.0-2", new.sha256, "--accept-changed"):
            self.assertIn(word, str(raised.exception))
        got, path = packages.fetch(old, self.folder / "cache", accept_changed=True)
        self.assertEqual((got.version, got.sha256, packages.sha256(path)), (new.version, new.sha256, new.sha256))

    def test_other_bytes_under_the_same_version_are_named_too(self):
        package = self.package("novel", {"usr/a.html": "<p>x"})
        wrong = dataclasses.replace(package, sha256="0" * 64)
        with self.assertRaises(RecipeError) as raised:
            packages.fetch(wrong, self.folder / "cache")
        self.assertIn(wrong.sha256, str(raised.exception))
        self.assertIn(package.sha256, str(raised.exception))
        self.assertEqual(list((self.folder / "cache").iterdir()), [])

    def test_one_at_a_time_works_in_a_folder(self):
        lock = packages.locked(self.folder / "cache")
        with self.assertRaisesRegex(RecipeError, "cache: another corpus.py is working there"):
            packages.locked(self.folder / "cache")
        lock.close()
        packages.locked(self.folder / "cache").close()

    def test_an_unknown_package_is_told(self):
        package = dataclasses.replace(self.package("novel", {"usr/a.html": "<p>x"}), name="romance")
        with self.assertRaisesRegex(RecipeError, "apt knows no package romance; run `apt-get update`"):
            packages.fetch(package, self.folder / "cache")

    def test_lock_renews_the_table_and_keeps_its_comments(self):
        package = self.package("novel", {"usr/a.html": "<p>x"})
        table = self.folder / "table.tsv"
        table.write_text("# a comment\n")
        packages.write_table([dataclasses.replace(package, version="0", bytes=1, sha256="0")], table)
        self.assertEqual(packages.offered(packages.read_table(table)[0]), package)
        self.assertTrue(table.read_text().startswith("# a comment\ngroup\tside\t"))


class Table(unittest.TestCase):
    def test_every_line_can_be_used(self):
        table = packages.read_table()
        for package in table:
            readers.chooser(package)
            self.assertRegex(package.sha256, "^[0-9a-f]{64}$", package.label)
            self.assertGreater(package.bytes, 1000, package.label)
            self.assertIn(package.registry, ("deb", "pypi"), package.label)
            self.assertIn(package.side, ("train", "held_out"), package.label)
            self.assertGreater(len(package.licence), 1, package.label)
        same = {}
        for package in table:
            self.assertEqual(same.setdefault(package.name, package.sha256), package.sha256, package.label)
        self.assertNotRegex(packages.TABLE.read_text(), r"https?:")

    def test_faults_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "t.tsv")
            path.write_text("group\tname\n")
            with self.assertRaisesRegex(RecipeError, "must name the columns group, side"):
                packages.read_table(path)
            line = packages.read_table()[0]
            packages.write_table([line, line], pathlib.Path(path))
            with self.assertRaisesRegex(RecipeError, f"{line.label} stands there twice"):
                packages.read_table(path)
        with self.assertRaisesRegex(RecipeError, "no reader is called htm; there are api"):
            readers.chooser(dataclasses.replace(line, reader="htm"))
        with self.assertRaisesRegex(RecipeError, "not a regular expression"):
            readers.chooser(dataclasses.replace(line, paths="("))


class Reading(Place):
    def texts(self, package):
        reader = readers.READERS[package.reader]
        _, path = packages.fetch(package, self.folder / "cache")
        return list(reader.texts(readers.files(path, readers.chooser(package))))

    def test_pages(self):
        page = ("<html><head><title>No</title></head><body><nav>No</nav><h1>On  pens</h1><p>A <b>good</b>\npen &amp; ink.</p>"
                "<!-- no --><pre>a\n  b</pre><script>no()</script></body></html>")
        package = self.package("p", {"usr/a.html": page, "usr/b.html.gz": gzip.compress(b"<p>B"), "usr/c.png": b"\x89",
                                     "usr/share/doc/p/changelog.html.gz": gzip.compress(b"<p>no"), "usr/de/d.html": "<p>D"})
        self.assertEqual([re.sub("\n+", "|", t).strip("| ") for t in self.texts(package)], ["On pens|A good pen & ink.|a|  b", "B", "D"])
        self.assertEqual(len(self.texts(dataclasses.replace(package, paths="!@other"))), 2)
        self.assertEqual(len(self.texts(dataclasses.replace(package, paths=r"/de/.*\.html$"))), 1)

    def test_manual_pages_and_pod(self):
        man = '.\\" no\n.TH A 1\n.SH NAME\na \\- b\n.PP\nThe \\fBbold\\fR one\nand\n.BR cat (1)\nfollow.\n'
        self.assertEqual(self.texts(self.package("m", {"usr/share/man/man1/a.1.gz": gzip.compress(man.encode())}, reader="man")),
                         ["\nNAME\n\na - b\n\nThe bold one\nand\ncat(1)\nfollow.\n"])
        pod = "=head1 NAME\n\nUse C<< a->b >> and B<I<both>>.\n\n    verbatim\n\n=cut\n"
        self.assertEqual(self.texts(self.package("q", {"usr/a.pod": pod}, reader="pod")),
                         ["NAME\n\nUse a->b and both.\n\n\n"])

    def test_dictionaries_even_with_bytes_behind_the_stream(self):
        package = self.package("d", {"usr/a.dict.dz": gzip.compress("mot\n\nword".encode()) + b"\1\2"}, reader="dict")
        self.assertEqual(self.texts(package), ["mot\n\nword"])

    def test_catalogues(self):
        pairs = [(b"", b"Language: de\n"), (b"Hello", b"Hallo"), (b"menu\x04Same", b"Same")]
        at, table, strings = 28 + 16 * len(pairs), [b"", b""], b""
        for side in (0, 1):
            for pair in pairs:
                table[side] += struct.pack("<2I", len(pair[side]), at + len(strings))
                strings += pair[side] + b"\0"
        mo = struct.pack("<7I", 0x950412de, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + b"".join(table) + strings
        package = self.package("c", {"usr/a.mo": mo}, reader="translations")
        self.assertEqual(self.texts(package), ["Hallo"])
        self.assertEqual(self.texts(dataclasses.replace(package, reader="originals")), ["Hello\nSame"])

    def test_bibles(self):
        verses = [zlib.compress(b"<q>In the beginning</q>"), zlib.compress(b"Second")]
        index = b"".join(struct.pack("<III", sum(map(len, verses[:i])), len(v), 9) for i, v in enumerate(verses))
        package = self.package("s", {"usr/ot.bzs": index, "usr/ot.bzz": b"".join(verses)}, reader="sword")
        self.assertEqual(self.texts(package), ["In the beginning", "Second"])

    def test_what_cannot_be_read_is_named_with_the_way_out(self):
        package = self.package("s", {"usr/ot.bzs": struct.pack("<III", 0, 4, 4), "usr/ot.bzz": b"no z"}, reader="sword")
        _, path = packages.fetch(package, self.folder / "cache")
        with self.assertRaisesRegex(RecipeError, "K/s: reader sword cannot read .*--without K/s"):
            corpus.extract(package, path, self.folder / "t.jsonl", "")
        self.assertFalse((self.folder / "t.jsonl").exists())


class Documents(unittest.TestCase):
    def test_prose_alone_enters_the_technical_class(self):
        prose = "This sentence is long enough to count as a paragraph of prose, since it has letters and blanks and goes on a while."
        code = "for (int i = 0; i < 100; ++i) { sum[i] += a[i] * b[i]; } // " * 3
        self.assertEqual(documents.clean(f"{code}\n{prose}\nshort", "T", False), prose)
        self.assertEqual(documents.clean(prose.replace(" ", "\n", 5) + "\n\n" + code, "T", True), prose)
        self.assertEqual(documents.clean("0123 4567\n" * 50, "K", False), "")
        self.assertEqual(documents.clean("\x00\ufeffa line of words, with\xad a few more\r\n\n\n\n" * 3, "K", True).count("\n\n\n"), 0)

    def test_lines_and_texts_come_once(self):
        once = documents.Unrepeated()
        footer = "This manual page is part of the collection of manual pages."
        self.assertEqual(once.text(f"one\n{footer}", "K"), f"one\n{footer}")
        self.assertEqual(once.text(f"two\n{footer}\nshort", "K"), "two\nshort")
        self.assertEqual(once.text("two\nshort", "K"), "two\nshort")
        self.assertEqual(once.text("two\nshort", "K"), "")

    def test_pieces_lose_nothing_but_the_lines_between(self):
        text = "\n\n".join(words(40, i) for i in range(200))
        cut = list(documents.pieces(text, 2000))
        self.assertEqual("\n\n".join(cut), text)
        self.assertTrue(all(2000 <= len(p) <= 4000 for p in cut[:-1]), list(map(len, cut)))
        self.assertEqual("".join(documents.pieces("x" * 9999, 1000)), "x" * 9999)

    def test_short_texts_are_put_together(self):
        made = list(documents.gathered(["a" * 900, "", "b" * 900, "c" * 900, "d" * 50]))
        self.assertEqual([len(t) for t in made], [2704, 50])

    def test_a_document_keeps_its_side(self):
        texts = [words(5, i) for i in range(4000)]
        out = [t for t in texts if documents.is_held_out(t, 0.1)]
        self.assertTrue(330 <= len(out) <= 470, len(out))
        self.assertTrue(set(t for t in texts if documents.is_held_out(t, 0.05)) < set(out))

    def test_what_is_found_again(self):
        train = [words(500, i) for i in range(20)]
        near = train[3].upper().replace(" ", "\n", 100)  # other line ends and case
        half = " ".join(train[4].split()[:250]) + " " + words(250, "new")
        chinese = "".join(chr(0x4e00 + 37 * i % 5000) for i in range(300))
        shares = documents.found_again([near, half, words(500, "other"), chinese, chinese[::-1], "a b"], train + [chinese])
        self.assertEqual(shares[0], 1.0)
        self.assertAlmostEqual(shares[1], 238 / 488, places=9)
        self.assertEqual(shares[2:5], [0.0, 1.0, 0.0])
        self.assertEqual(documents.found_again([""], train), [1.0])  # says nothing, tests nothing


class Whole(Place):
    def setUp(self):
        super().setUp()
        essays = {f"usr/{i:03}.html": f"<p>{words(600, i)}</p>" for i in range(100)}
        copies = {f"usr/{i:03}.html": f"<p>{words(600, i)} {words(20, ('copy', i))}</p>" for i in range(100)}
        self.chosen = [self.package("essays", essays), self.package("copies", copies),
                       self.package("apart", {"usr/a.html": f"<p>{words(900, 'apart')}</p>"}, side="held_out", group="W")]

    def sides(self, work, accept_changed=False):
        with quiet():
            texts = corpus.package_texts(self.chosen, work, accept_changed, 2)
            return corpus.package_sides(self.chosen, texts, 0.2)

    def test_twice_the_same_and_nothing_read_twice(self):
        first = self.sides(self.folder / "one")
        self.assertEqual(first, self.sides(self.folder / "two"))
        texts = sorted((self.folder / "one" / "texts").rglob("*.jsonl"))
        stamps = [t.stat().st_mtime_ns for t in texts]
        calls = self.calls()
        self.assertEqual(first, self.sides(self.folder / "one"))
        self.assertEqual(stamps, [t.stat().st_mtime_ns for t in texts])
        self.assertEqual(calls, self.calls())

    def test_near_duplicates_leave_the_held_out_side(self):
        sides = self.sides(self.folder / "work")
        before = len(sides.held_out["K"])
        self.assertTrue(20 <= before <= 60, before)
        train = set(sides.train["K"])
        with quiet():
            corpus.drop_found_again(sides, 0.2)
        # A document stays only where its copy was held out with it.
        self.assertEqual(set(sides.train["K"]), train)
        self.assertLess(len(sides.held_out["K"]), before / 2)
        for text in sides.held_out["K"]:
            self.assertFalse(any(text[:2000] == other[:2000] for other in train))
        self.assertEqual(sides.dropped["K"], [before, before - len(sides.held_out["K"])])
        self.assertEqual(len(sides.apart["W"]), 1)
        self.assertEqual([s["documents"] for s in sides.sources], [100, 100, 1])

    def test_a_changed_package_that_is_taken_stands_in_the_manifest(self):
        self.assertNotIn("changed_from", self.sides(self.folder / "work").sources[2])
        self.chosen[2] = dataclasses.replace(self.chosen[2], sha256="0" * 64)
        with self.assertRaisesRegex(RecipeError, "W/apart: the package has changed"):
            self.sides(self.folder / "work")
        source = self.sides(self.folder / "work", accept_changed=True).sources[2]
        self.assertEqual(source["changed_from"]["sha256"], "0" * 64)
        self.assertEqual(source["sha256"], packages.sha256(self.registry / "apart_1:1.0-1.deb"))

    def test_changed_rules_are_read_again(self):
        self.sides(self.folder / "work")
        path = self.folder / "work" / "texts" / "K" / "essays.jsonl"
        before = path.read_bytes()
        self.chosen[0] = dataclasses.replace(self.chosen[0], paths=r"/00\d\.html$")
        self.sides(self.folder / "work")
        self.assertLess(len(path.read_bytes()), len(before) / 5)


    def test_other_tools_read_pdfs_again(self):
        package = self.package("papers", {"usr/a.pdf": "%PDF"}, group="P", reader="pdf")
        prose = self.folder / "prose"
        prose.write_text(" ".join(f"{words(12, i)}." for i in range(30)) + "\n")
        for name, script in (("pdftotext", f'echo read >>{self.folder}/reads\ncat {prose}\n'),
                             ("dpkg-query", f'echo "installed $(cat {self.folder}/version)"\n')):
            (self.folder / "programs" / name).write_text("#!/bin/sh\n" + script)
            (self.folder / "programs" / name).chmod(0o755)
        for version, reads in (("1", 1), ("1", 1), ("2", 2)):
            (self.folder / "version").write_text(version)
            corpus.extract(package, next(self.registry.glob("papers*")), self.folder / "papers.jsonl", "rules")
            self.assertEqual(len((self.folder / "reads").read_text().splitlines()), reads)


class OwnText(Place):
    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def test_json_lines_are_documents(self):
        path = self.write("mine.jsonl", "".join(json.dumps({"text": words(50, i % 90)}) + "\n" for i in range(100)) + "\n")
        with quiet():
            sides = corpus.own_sides([path], "text", 0.2)
        self.assertEqual(len(sides.train["text"]) + len(sides.held_out["text"]), 90)  # equal ones once
        self.assertEqual(sides.sources[0]["sha256"], packages.sha256(path))

    def test_bad_lines_are_named(self):
        for bad in ("{", '{"body": "x"}', '["text"]', '{"text": 3}'):
            path = self.write("mine.jsonl", '{"text": "x"}\n' + bad + "\n")
            with self.assertRaisesRegex(RecipeError, r"mine\.jsonl:2: not a JSON object with a string 'text'"):
                list(corpus.own_documents(path, "text"))
        with self.assertRaisesRegex(RecipeError, "cannot be read: .*No such file"):
            list(corpus.own_documents(str(self.folder / "none.jsonl"), "text"))


class CommandLine(Place):
    def run_recipe(self, *arguments, modules=None):
        environment = dict(os.environ, PYTHONPATH=str(modules or self.folder))
        return subprocess.run([sys.executable, str(RECIPES / "corpus.py"), *map(str, arguments)], capture_output=True, text=True,
                              env=environment, check=False)

    def test_help_and_list(self):
        self.assertIn("--text mine.jsonl", self.run_recipe("--help").stdout)
        listed = self.run_recipe("--list")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertIn("F/stardict-xmlittre", listed.stdout)

    def test_what_is_missing_is_said_before_anything_is_done(self):
        got = self.run_recipe("--classes", "K")
        self.assertEqual(got.returncode, 2)
        self.assertIn("--output is needed", got.stderr)
        (self.folder / "tokenizers.py").write_text("raise ImportError('no tokenizers here')\n")
        (self.folder / "numpy.py").write_text("__version__ = '0'\n")
        got = self.run_recipe("--output", self.folder / "out")
        self.assertIn("no tokenizers here: pip install tokenizers numpy", got.stderr)
        (self.folder / "tokenizers.py").write_text("__version__ = '0'\n")
        got = self.run_recipe("--output", self.folder / "out", "--program", self.folder / "none")
        self.assertIn("none: no program; build it (launch/build.sh)", got.stderr)
        got = self.run_recipe("--output", self.folder / "out", "--ids-only", "--without", "K/none")
        self.assertIn("K/none is no line of packages.tsv", got.stderr)
        got = self.run_recipe("--output", self.folder / "out", "--ids-only", "--classes", "KX")
        self.assertIn("no package is of class X", got.stderr)
        query = self.folder / "programs" / "dpkg-query"
        query.write_text('#!/bin/sh\ncase $3 in poppler-data) printf "config-files 0.4"; exit;; esac\nprintf "installed 22.12"\n')
        query.chmod(0o755)
        got = self.run_recipe("--output", self.folder / "out", "--ids-only", "--classes", "KP")
        self.assertIn("class P: PDFs are read with poppler-data: apt-get install poppler-data, or", got.stderr)
        self.assertFalse((self.folder / "out").exists())
        (self.folder / "out").mkdir()
        (self.folder / "out" / "thesis.txt").touch()
        got = self.run_recipe("--output", self.folder / "out", "--ids-only", "--classes", "K")
        self.assertIn("holds something else already: thesis.txt", got.stderr)
        self.assertEqual(self.calls(), 0)

    def test_nothing_of_somebody_else_is_written_over(self):
        out = self.folder / "out"

        def refused(what, **files):
            shutil.rmtree(out, ignore_errors=True)
            for name, text in files.items():
                path = out / name.replace("__", "/").replace("DOT", ".")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            before = sorted((p, p.read_text()) for p in out.rglob("*") if p.is_file())
            with self.assertRaisesRegex(RecipeError, f"holds something else already: {what}"):
                corpus.check_output(out)
            self.assertEqual(sorted((p, p.read_text()) for p in out.rglob("*") if p.is_file()), before)

        ours = json.dumps({"format": "mneme-recipe"})
        refused("ids;", ids__trainDOTnpy="mine")
        refused("ids/notes.txt;", DOTlock="", ids__notesDOTtxt="mine")
        refused("manifest.json;", DOTlock="", ids__trainDOTnpy="", manifestDOTjson='{"name": "an app"}')
        refused("manifest.json;", ids__trainDOTnpy="", manifestDOTjson="[")
        refused("src;", ids__trainDOTnpy="", manifestDOTjson=ours, src__mainDOTpy="mine")
        shutil.rmtree(out)
        for name in (".lock", "manifest.json", "ids/train.npy", "ids/tokenizer.json", "ids/.train.npy.new", "held_out_K/shard-00000.h5",
                     ".train.preparing/spool"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(ours)
        corpus.check_output(out)
        (out / "manifest.json").unlink()
        corpus.check_output(out)
        with self.assertRaisesRegex(RecipeError, "is no folder"):
            corpus.check_output(out / ".lock")


if __name__ == "__main__":
    unittest.main()
