#!/usr/bin/env python3
"""The part of data/recipes that needs PyPI's `tokenizers` and numpy, to the end: corpora of one's own text. Exit 77 without them.

    recipe_tokens_test.py MNEME
"""
import hashlib
import json
import lzma
import pathlib
import re
import subprocess
import sys
import tempfile
import unicodedata
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "data" / "recipes"))
try:
    import numpy as np
    import tokens
except ImportError as why:
    print(f"{why}: pip install tokenizers numpy")
    sys.exit(77)

MNEME = ""


def novel(name):
    with lzma.open(ROOT / "data" / "austen" / f"{name}.txt.xz", "rt", encoding="utf-8") as f:
        return f.read()


def normalised(text):
    """The paper's normalisation (docs/mathematics.md) by Python's own tables."""
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = "".join(c for c in text if unicodedata.category(c)[0] != "M")
    text = re.sub(r"[ \t\r\n]+", " ", "".join(c.lower() for c in text))
    return text if text == " " else text.strip()


class Canonical(unittest.TestCase):
    def test_the_map_by_other_tables(self):
        mixed = novel("emma") + " \u00c9t\u00e9 \u00e9t\u00e9 \uff21\uff22 \ufb01n 中文 \u2002 \t\r\n" * 200
        tokenizer = tokens.trained([mixed], 6000, 10 ** 9)
        keys, expected = {}, []
        for i in range(tokenizer.get_vocab_size()):
            text = tokenizer.decode([i], skip_special_tokens=False)
            key = tokenizer.id_to_token(i) if "\ufffd" in text else normalised(text) or text
            expected.append(keys.setdefault(key, len(keys)))
        got = tokens.canonical_map(tokenizer)
        self.assertEqual(got.tolist(), expected)
        self.assertEqual(got[:3].tolist(), [0, 1, 2])

        def of(text):
            return {int(got[i]) for i in tokenizer.encode(text).ids}
        self.assertEqual(len(of("the") | of(" the") | of(" The") | of("The")), 1)
        self.assertEqual(len(of("\n") | of(" ") | of("\t")), 1)
        self.assertLess(got.max() + 1, 5500)


class OwnText(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        blocks = [b for name in ("emma", "persuasion") for b in novel(name).split("\n\n") if b.strip()]
        self.texts = ["\n\n".join(blocks[i:i + 8]) for i in range(0, len(blocks), 8)]
        self.file = self.folder / "mine.jsonl"
        self.file.write_text("".join(json.dumps({"text": t}) + "\n" for t in self.texts))

    def build(self, output, *more):
        return subprocess.run([sys.executable, str(ROOT / "data" / "recipes" / "corpus.py"), "--output", str(self.folder / output),
                               "--text", str(self.file), "--program", MNEME, "--vocabulary", "2000", "--held-out", "0.1",
                               *map(str, more)], capture_output=True, text=True, check=False)

    def digests(self, output):
        folder = self.folder / output
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}

    def test_a_file_becomes_corpora_the_same_ones_twice(self):
        for output in ("one", "two"):
            got = self.build(output)
            self.assertEqual(got.returncode, 0, got.stderr)
        first = self.digests("one")
        self.assertEqual(first, self.digests("two"))
        self.assertIn("train/shard-00000.h5", first)
        self.assertIn("held_out/shard-00000.h5", first)
        self.assertEqual(self.build("one").returncode, 0)
        self.assertEqual(first, self.digests("one"))

        manifest = json.loads((self.folder / "one" / "manifest.json").read_text())
        tokenizer = tokens.Tokenizer.from_file(str(self.folder / "one" / "ids" / "tokenizer.json"))
        back = {}
        for side in ("train", "held_out"):
            ids = np.load(self.folder / "one" / "ids" / f"{side}.npy")
            self.assertEqual((ids.dtype, len(ids), ids[-1]), (np.uint16, manifest["corpora"][side]["tokens"], tokens.EOS))
            ends = np.flatnonzero(ids == tokens.EOS)
            back[side] = [tokenizer.decode(part[:-1].tolist() if part[-1] == tokens.EOS else part.tolist())
                          for part in np.split(ids, ends[:-1] + 1)]
            self.assertEqual(sum(len(t.encode()) for t in back[side]), manifest["corpora"][side]["text_bytes"])
            prepared = json.loads((self.folder / "one" / side / "manifest.json").read_text())
            self.assertEqual((prepared["tokens"], prepared["documents"]), (len(ids), len(ends)))
        # Every document on one side, none changed, none lost.
        self.assertEqual(sorted(back["train"] + back["held_out"]), sorted(set(self.texts)))

    def test_ids_of_the_first_documents(self):
        got = self.build("few", "--train-ids", 20000, "--held-out-ids", 1, "--ids-only")
        self.assertEqual(got.returncode, 0, got.stderr)
        counts = json.loads((self.folder / "few" / "manifest.json").read_text())["corpora"]
        self.assertTrue(20000 <= counts["train"]["tokens"] < 30000, counts)
        self.assertEqual(counts["held_out"]["documents"], 1)
        self.assertFalse((self.folder / "few" / "train").exists())

    def test_a_tokenizer_of_elsewhere_gives_the_ids_that_it_gives(self):
        self.assertEqual(self.build("own").returncode, 0)
        file = self.folder / "own" / "ids" / "tokenizer.json"
        packed = self.folder / "elsewhere.json.xz"
        packed.write_bytes(lzma.compress(file.read_bytes()))
        got = self.build("other", "--tokenizer", packed, "--eos", "<eos>", "--pad", "<pad>")
        self.assertEqual(got.returncode, 0, got.stderr)
        for name in ("train.npy", "held_out.npy", "canonical.npy"):
            self.assertEqual((self.folder / "other" / "ids" / name).read_bytes(), (self.folder / "own" / "ids" / name).read_bytes())
        manifest = json.loads((self.folder / "other" / "manifest.json").read_text())
        self.assertEqual((manifest["vocabulary"]["eos"], manifest["vocabulary"]["pad"]), (tokens.EOS, tokens.PAD))

        got = self.build("none", "--tokenizer", packed, "--eos", "<end>")
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, "has no token '<end>'; --eos and --pad name two of its own")
        got = self.build("none", "--tokenizer", self.file, "--eos", "<eos>")
        self.assertRegex(got.stderr, "no tokenizer.json that can be read")
        self.assertEqual(self.build("none", "--tokenizer", packed).returncode, 2)

    def test_too_little_text_is_told_and_leaves_no_manifest(self):
        got = self.build("large", "--vocabulary", 60000)
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, r"a BPE of \d+ entries only, not 60000: more text is needed, or a smaller --vocabulary")
        self.assertFalse((self.folder / "large" / "manifest.json").exists())


if __name__ == "__main__":
    MNEME = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
