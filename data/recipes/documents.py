"""Texts to documents, and documents to sides: pure functions, and nothing outside the standard library."""
import hashlib
import re

SMALL, LARGE = 2000, 20000  # characters: shorter texts of a package are put together, longer ones cut
GRAM = 13                   # words of what counts as found again

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\ufeff\xad]")
NOT_PROSE = re.compile(r"[^\w\s,.']|[\d_]")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")

# By class: the paragraphs that are prose (least length, least share of letters, a space a so many characters), and from
# which length on a line that was there before is dropped.
PROSE = {"T": (100, 0.80, 12), "P": (100, 0.86, None)}
REPEATED = {"Z": 12, "M": 12}
REPEATED_ELSE = 40
HAN = re.compile(r"[\u3400-\u9fff]")


def digest(text):
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def letters(text):
    """Share of letters, blanks, commas, stops and apostrophes."""
    return 1.0 - len(NOT_PROSE.findall(text)) / max(1, len(text))


def clean(text, group, wrapped):
    """A text of a package as it may enter a document of this class; "" for one that is hardly text."""
    text = CONTROL.sub("", text.replace("\r", "").replace("\x0c", "\n"))
    text = text.encode("utf-8", "replace").decode("utf-8")
    if group in PROSE:
        least, share, blanks = PROSE[group]
        parts = text.split("\n\n") if wrapped else text.split("\n")
        parts = [" ".join(p.split()) for p in parts]
        parts = [p for p in parts if len(p) >= least and letters(p) >= share and
                 (blanks is None or p.count(" ") * blanks >= len(p))]
        return "\n".join(parts)
    lines = [line.rstrip() for line in text.split("\n")]
    if group == "Z":  # what nobody has translated
        lines = [line for line in lines if len(line) <= 40 or HAN.search(line)]
    text = "\n".join(lines)
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
    return text if len(text) >= 80 and letters(text[:4000]) >= 0.55 else ""


class Unrepeated:
    """Takes out what was there before: whole texts, and lines from some length on."""

    def __init__(self):
        self.texts, self.lines = set(), set()

    def first_time(self, text):
        key = digest(text)
        new = key not in self.texts
        self.texts.add(key)
        return new

    def text(self, text, group):
        if not self.first_time(text):
            return ""
        least, kept = REPEATED.get(group, REPEATED_ELSE), []
        for line in text.split("\n"):
            bare = line.strip()
            if len(bare) >= least:
                key = hashlib.blake2b(bare.encode(), digest_size=8).digest()
                if key in self.lines:
                    continue
                self.lines.add(key)
            kept.append(line)
        return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


def pieces(text, large=LARGE):
    """Cuts a text at blank lines, else at ends of lines, else anywhere, to pieces of about `large` characters."""
    begin = 0
    while len(text) - begin > 2 * large:
        least, most = begin + large, begin + 2 * large
        at = text.find("\n\n", least, most)
        at = at if at >= 0 else text.find("\n", least, most)
        at = at if at >= 0 else most
        yield text[begin:at]
        begin = at + len(text[at:most]) - len(text[at:most].lstrip("\n"))
    yield text[begin:]


def gathered(texts, small=SMALL, large=LARGE):
    """Documents of about `small` to twice `large` characters: texts that follow each other are put together or cut."""
    waiting, size = [], 0
    for text in texts:
        if not text:
            continue
        waiting.append(text)
        size += len(text)
        if size >= small:
            yield from pieces("\n\n".join(waiting), large)
            waiting, size = [], 0
    if size:
        yield "\n\n".join(waiting)


def is_held_out(text, share):
    """Of the text alone: a document stays on its side when others come or go."""
    return int.from_bytes(digest(text)[:8], "big") < share * 2.0 ** 64


def grams(text, n=GRAM):
    words = WORD.findall(text.lower())
    return zip(*(words[i:] for i in range(n))) if len(words) >= n else iter([tuple(words)] if words else [])


def found_again(held_out, train):
    """For each held-out document the share of its 13-grams of words that stand in training documents too."""
    places = {}
    for i, text in enumerate(held_out):
        for gram in grams(text):
            places.setdefault(gram, []).append(i)
    total = [0] * len(held_out)
    for where in places.values():
        for i in where:
            total[i] += 1
    found = [0] * len(held_out)
    for text in train:
        for gram in grams(text):
            where = places.pop(gram, None) if gram in places else None
            for i in where or ():
                found[i] += 1
    return [f / t if t else 1.0 for f, t in zip(found, total)]
