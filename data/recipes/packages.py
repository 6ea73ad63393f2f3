"""The packages that the corpus is made of: the table packages.tsv, and fetching."""
import csv
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TABLE = pathlib.Path(__file__).with_name("packages.tsv")


class RecipeError(Exception):
    """What is wrong outside, where, and what to do. Printed as one message."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A line of packages.tsv: one class's share of one package."""
    group: str      # the class, a letter
    side: str       # train: split by document; held_out: never trained on
    registry: str   # deb or pypi
    name: str
    version: str
    bytes: int
    sha256: str
    reader: str     # of readers.py
    paths: str      # regular expressions that a file's path must match, with ! must not; - takes the reader's own
    licence: str

    @property
    def label(self):
        return f"{self.group}/{self.name}"


def read_table(path=TABLE):
    with open(path, encoding="utf-8", newline="") as f:
        rows = [r for r in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE) if r and not r[0].startswith("#")]
    fields = [field.name for field in dataclasses.fields(Package)]
    if not rows or rows[0] != fields:
        raise RecipeError(f"{path}: the first line must name the columns {', '.join(fields)}")
    packages = []
    for row in rows[1:]:
        if len(row) != len(fields) or not row[5].isdigit():
            raise RecipeError(f"{path}: not {len(fields)} columns with a size in the sixth: {' '.join(row)}")
        packages.append(Package(*row[:5], int(row[5]), *row[6:]))
    labels = [p.label for p in packages]
    for label in labels:
        if labels.count(label) > 1:
            raise RecipeError(f"{path}: {label} stands there twice")
    return packages


def write_table(packages, path=TABLE):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    rows = [[field.name for field in dataclasses.fields(Package)]] + [list(map(str, dataclasses.astuple(p)))
                                                                      for p in packages]
    with replaced(path) as new:
        new.write_text("\n".join(head + ["\t".join(row) for row in rows]) + "\n", encoding="utf-8")


class replaced:
    """A path to write to, which takes the place of `path` when the block ends well, and is removed when it does not. What a
    killed process left of it is written over: whoever writes holds the lock of the folder (`locked`)."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.new = self.path.with_name(f".{self.path.name}.new")

    def __enter__(self):
        return self.new

    def __exit__(self, kind, *_):
        if kind is None:
            os.replace(self.new, self.path)
        else:
            self.new.unlink(missing_ok=True)


def locked(folder):
    """Takes a folder for this process alone, until it ends. -> what holds the lock"""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RecipeError(f"{folder}: another corpus.py is working there; wait for it, or name another folder") from None
    return lock


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def run(*command, cwd=None):
    try:
        return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RecipeError(f"{command[0]}: not found here; the recipe needs a Debian system with it") from None


def offered(package):
    """What the registry has now under the package's name: the package with that version, size and sum."""
    if package.registry == "deb":
        shown = run("apt-cache", "show", "--no-all-versions", package.name)
        found = dict(re.findall(r"^(Version|Size|SHA256): (.*)$", shown.stdout, re.M))
        if len(found) < 3:
            raise RecipeError(f"{package.label}: apt knows no package {package.name}; run `apt-get update`, and see that "
                              "the sources of apt name Debian 12, `main`")
        return dataclasses.replace(package, version=found["Version"], bytes=int(found["Size"]), sha256=found["SHA256"])
    with tempfile.TemporaryDirectory() as folder:
        path = download(dataclasses.replace(package, version=""), folder)
        version = path.name.split("-")[1]
        return dataclasses.replace(package, version=version, bytes=path.stat().st_size, sha256=sha256(path))


def download(package, folder):
    """-> the file, in `folder`, which is empty before."""
    if package.registry == "deb":
        got = run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{package.name}={package.version}", cwd=folder)
    else:
        wanted = package.name + (f"=={package.version}" if package.version else "")
        got = run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder), wanted)
    files = [p for p in pathlib.Path(folder).iterdir() if p.is_file()]
    if got.returncode or len(files) != 1:
        raise RecipeError(f"{package.label}: {package.name} {package.version} cannot be had:\n{got.stderr.strip()[-800:]}")
    return files[0]


def changed(package, now):
    return RecipeError(
        f"{package.label}: the package has changed\n"
        f"  the recipe has  {package.name} {package.version}, {package.bytes} bytes, sha256 {package.sha256}\n"
        f"  the registry    {now.name} {now.version}, {now.bytes} bytes, sha256 {now.sha256}\n"
        "To take it as it is now, and say so in the manifest: --accept-changed. To leave it out: --without "
        f"{package.label}. To renew the recipe: --lock.")


def cached(package, folder):
    ending = "deb" if package.registry == "deb" else "whl"
    return pathlib.Path(folder) / f"{package.name}_{package.version.replace(':', '%3a')}.{ending}"


def fetch(package, folder, accept_changed=False):
    """-> (package as it was got, its file). A file that is there with the right sum is not fetched again; one that is
    not whole is never left under its name."""
    path = cached(package, folder)
    if path.exists() and sha256(path) == package.sha256:
        return package, path
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".fetch-*"):  # by a killed process
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as place:
        try:
            new = download(package, place)
            got = dataclasses.replace(package, bytes=new.stat().st_size, sha256=sha256(new))
        except RecipeError:
            got = offered(package)
            if got.version == package.version:
                raise
            if accept_changed:
                return fetch(got, folder)
        if got != package and not accept_changed:
            raise changed(package, got)
        path = cached(got, folder)
        shutil.move(new, path)
    return got, path
