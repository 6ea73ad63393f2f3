"""A byte-level BPE of the documents, its canonical map, and the documents' ids, by PyPI's `tokenizers`."""
import lzma

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIALS = ["<bos>", "<eos>", "<pad>"]
EOS, PAD = 1, 2

# docs/mathematics.md, in its order. U+E000 keeps a lone blank from being stripped.
NORMAL = normalizers.Sequence([
    normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
    normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Replace(Regex(r"^ $"), "\ue000"), normalizers.Strip(),
    normalizers.Replace("\ue000", " ")])


def trained(documents, vocabulary, sample):
    """A BPE of the first documents up to `sample` characters. Its merges depend on counts alone, not on threads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    taken, size = [], 0
    for text in documents:
        if size >= sample:
            break
        taken.append(text)
        size += len(text)
    tokenizer.train_from_iterator(
        taken, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIALS, show_progress=False,
                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def canonical_map(tokenizer):
    keys, out = {}, []
    for i in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([i], skip_special_tokens=False)
        key = tokenizer.id_to_token(i) if "\ufffd" in text else (NORMAL.normalize_str(text) or text)
        out.append(keys.setdefault(key, len(keys)))
    return np.array(out, dtype=np.int32)


def made_elsewhere(path):
    """The tokenizer of a tokenizer.json, plain or .xz."""
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as f:
        return Tokenizer.from_str(f.read())


def encoded(tokenizer, documents, limit=0, eos=EOS):
    """-> one array of ids for each document, its end with it; whole documents until `limit` ids are there (0: all)."""
    out, size = [], 0
    kind = np.uint16 if tokenizer.get_vocab_size() <= 65536 else np.uint32
    for begin in range(0, len(documents), 256):
        for encoding in tokenizer.encode_batch_fast(documents[begin:begin + 256], add_special_tokens=False):
            if limit and size >= limit:
                return out
            out.append(np.array(encoding.ids + [eos], dtype=kind))
            size += len(out[-1])
    return out
