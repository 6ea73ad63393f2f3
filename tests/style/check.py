#!/usr/bin/env python3
"""Who includes whom, and the figures of the style sheet (docs/architecture.md). Exit 1 on a fault of structure."""

import pathlib
import re
import sys
import unicodedata

ROOMS = ("kernels", "configs", "parallel", "data", "models", "engine", "launch", "tests")
UNDER_ENGINE = {"configs", "kernels", "parallel", "models", "data"}
ENGINE_PARTS = {"engine/plan", "engine/machine", "engine/update", "engine/evaluation", "engine/checkpoint", "engine/report",
                "engine/forecast"}
# What a folder may include beside itself. Arrows are transitive, `configs` is open to all but kernels, `data` stands on
# configs alone.
BELOW = {
    "configs": set(),
    "kernels": set(),
    "kernels/core": set(),
    "kernels/ops": {"kernels/core"},
    "kernels/cpu": {"kernels", "kernels/ops", "kernels/core"},
    "kernels/gpu": {"kernels", "kernels/ops", "kernels/core"},
    "kernels/dry": {"kernels", "kernels/ops", "kernels/core"},
    "data": {"configs"},
    "parallel": {"configs", "kernels"},
    "models": {"configs", "kernels", "parallel"},
    "engine/plan": {"configs", "kernels", "parallel", "models"},
    "engine/machine": UNDER_ENGINE,
    "engine/update": UNDER_ENGINE,
    "engine/evaluation": UNDER_ENGINE,
    "engine/checkpoint": UNDER_ENGINE | {"engine/update"},
    "engine/report": UNDER_ENGINE | {"engine/update", "engine/evaluation", "engine/checkpoint"},
    "engine/forecast": UNDER_ENGINE | {"engine/machine", "engine/update"},
    "engine": UNDER_ENGINE | ENGINE_PARTS,
    "engine/convert": UNDER_ENGINE | ENGINE_PARTS | {"engine"},
    "engine/sweep": UNDER_ENGINE | ENGINE_PARTS | {"engine"},
    "launch": UNDER_ENGINE | ENGINE_PARTS | {"engine", "engine/convert", "engine/sweep"},
}
BELOW["kernels"] = {"kernels/ops", "kernels/core"}
BACKENDS = {"kernels/gpu"}  # reached through the tables of ops and of the driver alone
LEAVES = {"kernels/core/check.h", "kernels/core/random.h"}  # open to every room
COLUMNS = 100
BACKEND = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*(?:CUDA|GPU|NCCL|CUDNN|HIP|ROCM|__NVCC__)", re.I)
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def folder(path):
    """The part of the tree an arrow starts from: the room, or for kernels and engine its subfolder."""
    parts = path.split("/")
    return "/".join(parts[:-1][:2]) if parts[0] in ("kernels", "engine") else parts[0]


def allowed(source, target):
    here, there = folder(source), folder(target)
    if here == there or here == "tests" or target in LEAVES:
        return there != "tests" or here == "tests"
    if there in BELOW.get(here, set()):
        return True
    if there in BACKENDS:
        return False
    # A folder of kernels from outside; those of engine are named one by one.
    return here.split("/")[0] != "kernels" and there.split("/")[0] == "kernels" and "kernels" in BELOW.get(here, set())


def cycles(graph):
    """Strongly connected groups of more than one node (Tarjan), and self-loops."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for next_node in graph.get(node, ()):
            if next_node not in index:
                visit(next_node)
            if next_node in stack:
                low[node] = min(low[node], low[next_node])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1 or node in graph.get(node, ()):
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def read(root):
    files = {}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu", ".cuh"):
                files[path.relative_to(root).as_posix()] = path.read_text().splitlines()
    return files


def columns(files):
    """-> list of faults: the formatter breaks code, but no long word of a comment or a text. A mark over a letter (x̃) takes no
    column."""
    wide = ((name, number, len(line) - sum(map(bool, map(unicodedata.combining, line))))
            for name, lines in files.items() for number, line in enumerate(lines, 1) if len(line) > COLUMNS)
    return [f"{name}:{number}: {width} columns, at most {COLUMNS}" for name, number, width in wide if width > COLUMNS]


def structure(files):
    """-> list of faults."""
    faults, file_graph, folder_graph = [], {}, {}
    for name, lines in files.items():
        for number, line in enumerate(lines, 1):
            if BACKEND.match(line):
                faults.append(f"{name}:{number}: #if on a backend: the build picks folders, the source does not")
            include = INCLUDE.match(line)
            if not include or include[2].split("/")[0] not in ROOMS:
                continue
            target = include[2]
            file_graph.setdefault(name, set()).add(target)
            if not allowed(name, target):
                faults.append(f"{name}:{number}: {folder(name)} may not include {target}")
            if folder(name) != folder(target) and target not in LEAVES and folder(name) != "tests":
                folder_graph.setdefault(folder(name), set()).add(folder(target))
    faults += ["files include each other: " + ", ".join(group) for group in cycles(file_graph)]
    faults += ["folders include each other: " + ", ".join(group) for group in cycles(folder_graph)]
    return faults


def figures(files):
    product = {n: l for n, l in files.items() if not n.startswith("tests/")}
    lengths = sorted(len(l) for l in product.values())
    headers = [line.strip() for n, l in product.items() if n.endswith((".h", ".cuh")) for line in l if line.strip()]
    comments = sum(line.startswith("//") or " // " in line for line in headers)
    macros = [n for n, l in files.items() for line in l if re.match(r"\s*#\s*define\s+\w+\(", line)]
    mains = [n for n, l in files.items() for line in l if re.match(r"int main\(", line)]
    third, in_headers = {}, set()
    for name, lines in product.items():
        for line in lines:
            include = INCLUDE.match(line)
            if include and include[2].split("/")[0] not in ROOMS and ("." in include[2] or include[1] == '"'):
                if re.match(r"(sys|bits|linux)/|\w+\.h$", include[2]) and include[2] in SYSTEM:
                    continue
                if name.startswith("kernels/gpu/") and include[2] in CUDA:
                    continue
                third.setdefault(include[2], set()).add(name)
                if name.endswith(".h") and not re.search(r"absl/(status/status(or)?|types/span)\.h", include[2]):
                    in_headers.add(f"{include[2]} in {name}")
    test_lines = sum(len(l) for n, l in files.items() if n.startswith("tests/"))
    widest = [(len(names), header) for header, names in third.items() if "absl/" not in header]
    rows = [
        ("files", len(lengths), ""),
        ("median file", lengths[len(lengths) // 2], "<= 150"),
        ("p90 file", lengths[len(lengths) * 9 // 10], "<= 400"),
        ("longest file", max((len(l), n) for n, l in product.items()), "about 600"),
        ("comment share in headers", f"{100 * comments // max(1, len(headers))} %", ">= 30 %"),
        ("function-like macros", f"{len(macros)} in {len(set(macros))} files", "<= 12 in one"),
        ("main()", len(mains), "1 and the test runners'"),
        ("most-included third-party header", max(widest, default=(0, "-")), "<= 2 files"),
        ("third-party headers in ours", len(in_headers), "0"),
        ("test / product lines", f"{test_lines / max(1, sum(lengths)):.2f}", ">= 0.6"),
    ]
    for name, value, aim in rows:
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        print(f"style: {name:34} {text:44} {aim}")
    for line in sorted(in_headers):
        print(f"style:   third-party header {line}")


SYSTEM = {"dlfcn.h", "fcntl.h", "unistd.h", "signal.h", "sched.h", "omp.h", "immintrin.h", "cpuid.h", "sys/mman.h",
          "sys/stat.h", "sys/types.h", "sys/statvfs.h", "sys/file.h", "sys/resource.h", "sys/wait.h", "sys/ioctl.h",
          "sys/sysinfo.h", "sys/time.h", "time.h", "errno.h", "pthread.h", "sys/utsname.h"}
# The GPU backend's own platform, as the above are everybody's.
CUDA = {"cublasLt.h", "cuda.h", "cuda_bf16.h", "cuda_runtime.h", "cuda_runtime_api.h"}


def main():
    files = read(pathlib.Path(sys.argv[1]))
    if not files:
        sys.exit(f"style: no sources under {sys.argv[1]}")
    faults = structure(files) + columns(files)
    figures(files)
    for fault in faults:
        print("style: " + fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
