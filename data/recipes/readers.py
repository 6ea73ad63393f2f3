"""Text out of the files of a package: one reader a format. Readers are pure functions of bytes.

A reader takes the (path, bytes) of the files it wants and gives texts: a page, a chapter, a manual page, a dictionary.
In the text of some a line is a paragraph, in others paragraphs are wrapped and a blank line ends them.
"""
import dataclasses
import gzip
import html
import json
import pathlib
import re
import sqlite3
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from typing import Callable

from packages import RecipeError


# ---- The files of a package

# Never text: what every package carries about itself.
PAPERWORK = re.compile(r"(^|/)(changelog[^/]*|copyright|NEWS\.Debian|LICEN[CS]E[^/]*|COPYING[^/]*)$|\.Debian$")


def unpacked(data):
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):  # dictzip: garbage may follow the stream
        return zlib.decompressobj(31).decompress(data)


def files(path, wanted):
    """(path, bytes) of each regular file of a package whose path `wanted` takes, in the package's own order, gunzipped,
    and with no .gz or .dz in its name."""
    def item(name, read):
        name = name.removeprefix("./")
        plain = name.removesuffix(".gz").removesuffix(".dz")
        if wanted(plain) and not PAPERWORK.search(plain):
            yield plain, unpacked(read())

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield from item(info.filename, lambda info=info: archive.read(info))
        return
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for info in archive:
                if info.isreg():
                    yield from item(info.name, lambda info=info: archive.extractfile(info).read())
    if process.returncode:
        raise RecipeError(f"{path}: dpkg-deb cannot unpack it (exit {process.returncode}); remove it and try again")


def decoded(data):
    declared = re.search(rb'charset=["\']?([\w-]+)', data[:3000])
    for encoding in ["utf-8"] + ([declared[1].decode()] if declared else []) + ["latin-1"]:
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            pass
    raise AssertionError("latin-1 decodes all")


# ---- Markup

DROPPED = re.compile(r"(?is)<(script|style|head|nav|header|footer|svg|math|form|button|select)\b.*?</\1\s*>"
                     r"|<!--.*?-->|<!\[CDATA\[|\]\]>|<\?.*?\?>|<!DOCTYPE.*?>")
BLOCK = re.compile(r"(?i)</?(p|div|br|tr|li|ul|ol|dl|dt|dd|h[1-6]|table|section|article|pre|blockquote|title|para|simpara|"
                   r"listitem|entry|row|term|sect[1-5]|chapter|item|info|desc|note|steps|screen|programlisting|verse|lg|l|"
                   r"hr|td|th)\b[^>]*>")
TAG = re.compile(r"<[^>]*>")
PREFORMATTED = re.compile(r"(?is)<pre\b[^>]*>(.*?)</pre>")


def markup_text(text):
    """HTML, DocBook, Mallard: a line a block; what is preformatted keeps its lines."""
    kept = []

    def keep(match):
        kept.append(html.unescape(TAG.sub("", match[1])))
        return f"\n\x01{len(kept) - 1}\x02\n"

    text = re.sub(r"[\x01\x02]", "", text)
    text = PREFORMATTED.sub(keep, DROPPED.sub(" ", text))
    text = re.sub(r"[ \t\r\n]+", " ", text)
    text = html.unescape(TAG.sub("", BLOCK.sub("\n", text)))
    text = re.sub(r"[ \t\xa0]*\n[ \t]*", "\n", text)
    return re.sub("\x01(\\d+)\x02", lambda m: "\n" + kept[int(m[1])] + "\n", text)


# ---- Manual pages, Perl's pod

ESCAPES = [(re.compile(a), b) for a, b in (
    (r"\\f[BIRPC]|\\[fFm](\(..|\[[^\]]*\])|\\s[+-]?\d+|\\[&|^/,%:)]", ""),
    (r"\\[(\[](aq|cq|oq)\]?", "'"), (r"\\[(\[](lq|rq|dq)\]?|\\\*\([LR]\"", '"'),
    (r"\\[(\[]em\]?", "\u2014"), (r"\\[(\[]en\]?", "\u2013"), (r"\\[(\[]bu\]?", "\u2022"), (r"\\[(\[]co\]?", "\u00a9"),
    (r"\\[(\[]ha\]?", "^"), (r"\\[(\[]ti\]?", "~"), (r"\\\*\(--", "--"), (r"\\\*\(C['`+]", ""), (r"\\u\[[0-9A-F]{4}\]", " "),
    (r"\\-", "-"), (r"\\[ ~0]", " "), (r"\\e|\\[(\[]rs\]?", r"\\"), (r"\\'", "'"), (r"\\`", "`"), (r"\\\*\[?\w+\]?", ""))]
SHOWN = set("B I BR BI IB RB RI IR SM SB Nm Fl Ar Op Xr Cm Pa Dq Li Em Sy Dv Fn Ft Fa Va Ev Ql Nd It IP Dl Sq Pq Aq Er Vt "
            "In Fd D1 OP UR MT".split())
JOINED = {"BR", "BI", "IB", "RB", "RI", "IR"}  # alternating fonts of one word
BREAKS = {"PP", "P", "LP", "Pp", "sp", "TP", "HP"}


def man_text(text):
    out = []
    for line in text.split("\n"):
        if line.startswith("'\\\""):
            continue
        line = re.sub(r'\\".*$', "", line)
        request = re.match(r"[.'][ \t]*(\S+)[ \t]*(.*)$", line)
        if request is None:
            if line[:1] not in (".", "'"):
                out.append(line)
            continue
        name, rest = request.groups()
        if name in ("SH", "Sh", "SS", "Ss"):
            out += ["", rest.strip('"'), ""]
        elif name in JOINED:
            out.append("".join(re.findall(r'"[^"]*"|\S+', rest)).replace('"', ""))
        elif name in SHOWN:
            out.append(rest.replace('"', " "))
        elif name in BREAKS:
            out.append("")
    text = "\n".join(out)
    for pattern, by in ESCAPES:
        text = pattern.sub(by, text)
    return text


def pod_text(text):
    text = re.sub(r"(?ms)^=begin\b.*?^=end\b[^\n]*$", "", text)
    blocks = [b for b in text.split("\n\n") if not b[:1].isspace()]
    text = re.sub(r"(?m)^=\w+ ?", "", "\n\n".join(blocks))
    text = re.sub(r"[A-Z]<<+ (.*?) >>+", r"\1", text)
    for _ in range(3):  # nested codes
        text = re.sub(r"[A-Z]<([^<>]*)>", r"\1", text)
    return text.replace("E<lt>", "<").replace("E<gt>", ">")


# ---- Catalogues of translations, dictionaries, web APIs

def catalogue(data):
    """(original, translation) of a gettext .mo."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, originals, translations = struct.unpack_from(order + "3I", data, 8)
    for i in range(count):
        pair = []
        for table in (originals, translations):
            size, at = struct.unpack_from(order + "2I", data, table + 8 * i)
            pair.append(data[at:at + size].split(b"\0")[0].decode("utf-8", "replace"))
        if pair[0]:
            yield pair[0].split("\x04")[-1], pair[1]


def translations(data):
    return "\n".join(b for a, b in catalogue(data) if b and b != a)


def originals(data):
    return "\n".join(a for a, b in catalogue(data) if b)


def littre_text(data):
    text = html.unescape(re.sub(r"<[^>\n]{1,200}>", "", decoded(data)))
    return re.sub(r"[ \t]+", " ", text)


def fortunes(data):
    return re.sub(r"(?m)^%$", "", decoded(data))


def api_documentation(data):
    """The sentences of botocore's service models."""
    found = []

    def visit(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if key == "documentation" and isinstance(value, str):
                found.append(markup_text(value))
            elif isinstance(value, (dict, list)):
                visit(value)

    visit(json.loads(decoded(data)))
    return "\n".join(found)


# ---- Readers of several files, or of many texts in one

def sword_texts(files):
    """SWORD modules: zText and zCom (index of blocks, blocks), zLD (index of entries, blocks of entries)."""
    data = dict(files)
    for name in sorted(data):
        stem, kind = name[:-3], name[-3:]
        if kind in ("bzs", "czs"):
            for at in range(0, len(data[name]) - 11, 12):
                begin, size, _ = struct.unpack_from("<III", data[name], at)
                if size:
                    block = zlib.decompress(data[stem + kind[0] + "zz"][begin:begin + size])
                    yield markup_text(decoded(block).replace("\0", " "))
        elif kind == "zdx":
            for at in range(0, len(data[name]) - 7, 8):
                begin, size = struct.unpack_from("<II", data[name], at)
                block = zlib.decompress(data[stem + "zdt"][begin:begin + size])
                entries = [struct.unpack_from("<II", block, 4 + 8 * i) for i in range(struct.unpack_from("<I", block)[0])]
                yield "\n\n".join(markup_text(decoded(block[b:b + n]).replace("\0", " ")) for b, n in entries)


def r_records(rdb):
    """Each record of an R .rdb: a big-endian inflated length, then a zlib stream."""
    at = 0
    while at < len(rdb):
        stream = zlib.decompressobj()
        record = stream.decompress(rdb[at + 4:])
        assert len(record) == struct.unpack_from(">I", rdb, at)[0]
        yield record
        at = len(rdb) - len(stream.unused_data)


def r_lines(record):
    """The strings of the record's character vector (R's XDR serialisation); none where it holds something else."""
    at = record.find(b"\x00\x00\x00\x10")
    count = struct.unpack_from(">I", record, at + 4)[0] if at >= 0 else 0
    at += 8
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", record, at)
        assert flags & 0xff == 9
        at += 8 + length
        yield record[at - length:at].decode("utf-8").rstrip()


def r_texts(files):
    for _, data in files:
        for record in r_records(data):
            yield "\n".join(r_lines(record)) + "\n"


def ontology(files):
    """Terms of the Gene Ontology, with their definitions."""
    for _, data in files:
        with tempfile.NamedTemporaryFile(suffix=".sqlite") as f:
            f.write(data)
            f.flush()
            rows = sqlite3.connect(f.name).execute("select term, definition from go_term order by go_id").fetchall()
        yield "\n\n".join(f"{term}: {definition}" for term, definition in rows)


def summaries(files):
    """Lead sections of encyclopedia articles."""
    for _, data in files:
        for article in json.loads(data).values():
            yield f"{article['title']}\n\n{article['extract']}"


def pdf_texts(files):
    for _, data in files:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "a.pdf")
            path.write_bytes(data)
            try:
                got = subprocess.run(["pdftotext", "-q", "-enc", "UTF-8", str(path), "-"], capture_output=True, check=False)
            except FileNotFoundError:
                raise RecipeError("pdftotext: not found here; apt-get install poppler-utils") from None
        if got.returncode == 0:
            yield re.sub(r"-\n(?=[a-z])", "", got.stdout.decode("utf-8", "replace").replace("\x0c", "\n\n"))


def each(text_of):
    """A reader that makes one text of each file."""
    def reader(files):
        for _, data in files:
            yield text_of(data)
    return reader


@dataclasses.dataclass(frozen=True)
class Reader:
    texts: Callable  # iterable of (path, bytes) -> iterable of str
    paths: str       # of the files it reads, where the table says none
    wrapped: bool    # blank lines end paragraphs; else every line is one


def one(text_of, paths, wrapped):
    return Reader(each(lambda data: text_of(decoded(data))), paths, wrapped)


READERS = {
    "html": one(markup_text, r"\.x?html?(\.[a-z]{2}(-[a-z]{2})?)?(\.utf8)?$", False),
    "docbook": one(markup_text, r"\.(page|docbook|xml|sgml)$", False),
    "man": one(man_text, r"/man/.*\.[1-9]\w*$", True),
    "pod": one(pod_text, r"\.pod$", True),
    "text": one(lambda text: text, r"\.(txt|text|md|rst)$", True),
    "dict": Reader(each(decoded), r"\.dict$", True),
    "littre": Reader(each(littre_text), r"\.dict$", False),
    "fortunes": Reader(each(fortunes), r"games/fortunes/[^.]*$", True),
    "api": Reader(each(api_documentation), r"/service-2\.json$", False),
    "translations": Reader(each(translations), r"\.g?mo$", False),
    "originals": Reader(each(originals), r"\.g?mo$", False),
    "sword": Reader(sword_texts, r"\.([bc]z[sz]|zd[xt])$", False),
    "r": Reader(r_texts, r"/data/Rdata\.rdb$", False),
    "ontology": Reader(ontology, r"\.sqlite$", False),
    "summaries": Reader(summaries, r"summaries_en-us\.json$", False),
    "pdf": Reader(pdf_texts, r"\.pdf$", True),
}

# Named patterns of the table's paths. The languages as path components and suffixes of documentation.
NAMED = {
    "@other": r"[./_-](ar|ca|cs|da|de|el|es|fa|fi|fr|gl|hr|hu|id|it|ja|ko|lt|nb|nl|no|pl|pt|pt_?br|ro|ru|sk|sr|sv|tr|uk|vi|zh"
              r"|zh_?(cn|tw|hans|hant)|(?!en-)[a-z]{2}[-_][a-z]{2})([./_-]|$)",
    "@english": r"/en(-US|-GB|\.[a-z]+)?/|\.en\.|/C/",
    "@chinese": r"[./_-]zh([-_](cn|tw|hans|hant|hk))?([./_-]|$)",
}


def chooser(package):
    """-> whether a file's path is one that the package's reader is to have."""
    reader = READERS.get(package.reader)
    if reader is None:
        raise RecipeError(f"{package.label}: no reader is called {package.reader}; there are {', '.join(sorted(READERS))}")
    patterns = [] if package.paths == "-" else package.paths.split(" ")
    if all(p.startswith("!") for p in patterns):
        patterns.insert(0, reader.paths)
    try:
        compiled = [(not p.startswith("!"), re.compile(NAMED.get(p.removeprefix("!"), p.removeprefix("!")), re.I)) for p in patterns]
    except re.error as why:
        raise RecipeError(f"{package.label}: {package.paths}: not a regular expression: {why}") from None
    return lambda path: all((pattern.search("/" + path) is not None) == take for take, pattern in compiled)
