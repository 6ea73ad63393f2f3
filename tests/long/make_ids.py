#!/usr/bin/env python3
"""Token ids of plain text for the long checks, made with PyPI's `tokenizers` (pip install tokenizers numpy).

make_ids.py --input TEXT[.xz]... --output DIR [--vocab 32768] [--train-ids N] [--held-out-ids M] [--seed 0]

Blank-line blocks are grouped into documents of about 20 kB and shuffled by seed; a byte-level BPE is trained on a
sample of them; the first documents up to M ids are held out, the next up to N train. Writes train.npy, held_out.npy
(u16), canonical.npy (i32, the canonical map of docs/mathematics.md over this vocabulary), tokenizer.json, and ids.json
with what `mneme prepare` is to be told: the text bytes of both parts, the end-of-document id 1 and the pad id 2.
"""
import argparse
import json
import lzma
import pathlib
import re
import unicodedata

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def documents(path):
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as f:
        text = f.read().replace("\0", " ")
    out, block, size = [], [], 0
    for part in text.split("\n\n"):
        block.append(part)
        size += len(part)
        if size > 20000:
            out.append("\n\n".join(block))
            block, size = [], 0
    return out + ["\n\n".join(block)]


def normalise(text):
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    text = "".join(c for c in text if unicodedata.category(c)[0] != "M")
    text = re.sub(r"[ \t\r\n]+", " ", "".join(c.lower() for c in text))
    return text if text == " " else text.strip()


def canonical_map(tokenizer):
    keys, out = {}, []
    for i in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([i], skip_special_tokens=False)
        key = tokenizer.id_to_token(i) if "\ufffd" in text else (normalise(text) or text)
        out.append(keys.setdefault(key, len(keys)))
    return np.array(out, dtype=np.int32)


def encode(tokenizer, docs, limit):
    ids, used, size = [], 0, 0
    for begin in range(0, len(docs), 64):
        for encoding in tokenizer.encode_batch(docs[begin:begin + 64]):
            if size >= limit:
                return ids, docs[:used]
            ids.append(np.array(encoding.ids + [1], dtype=np.uint16))
            size += len(ids[-1])
            used += 1
    return ids, docs[:used]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--input", nargs="+", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--vocab", type=int, default=32768)
    p.add_argument("--train-ids", type=int, default=5_000_000)
    p.add_argument("--held-out-ids", type=int, default=300_000)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if a.vocab > 65536:
        p.error("--vocab: ids are written as u16, at most 65536")
    docs = [d for path in a.input for d in documents(path)]
    docs = [docs[i] for i in np.random.default_rng(a.seed).permutation(len(docs))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        docs[:1500],
        trainers.BpeTrainer(vocab_size=a.vocab, special_tokens=["<bos>", "<eos>", "<pad>"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    out = pathlib.Path(a.output)
    out.mkdir(parents=True, exist_ok=True)
    held, held_docs = encode(tokenizer, docs, a.held_out_ids)
    train, train_docs = encode(tokenizer, docs[len(held_docs):], a.train_ids)
    canonical = canonical_map(tokenizer)
    np.save(out / "held_out.npy", np.concatenate(held))
    np.save(out / "train.npy", np.concatenate(train))
    np.save(out / "canonical.npy", canonical)
    tokenizer.save(str(out / "tokenizer.json"))
    info = {"vocabulary": tokenizer.get_vocab_size(), "canonical": int(canonical.max()) + 1, "eos": 1, "pad": 2,
            "train_ids": sum(map(len, train)), "held_out_ids": sum(map(len, held)),
            "train_text_bytes": sum(len(d.encode()) for d in train_docs),
            "held_out_text_bytes": sum(len(d.encode()) for d in held_docs)}
    (out / "ids.json").write_text(json.dumps(info, indent=1) + "\n")
    print(json.dumps(info))


if __name__ == "__main__":
    main()
