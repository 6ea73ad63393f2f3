#!/usr/bin/env python3
"""The page of experiments must say what its bundles say, of none, of some cells and of all, and a planted fault must be found.

    experiments_test.py ROOT PROGRAM

Bundles are packed by PROGRAM from cells that are made up here: the sweeps of configs/, a corpus of one novel, losses of a
formula. Nothing is trained.
"""

import json
import lzma
import math
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

import experiments

SLOPE, BEST = -0.031, 0.7  # of the made-up losses


def check(truth, says):
    if not truth:
        sys.exit(f"experiments_test: {says}")


class Place:
    """A checkout with configs, the page and corpora, in a scratch folder."""

    def __init__(self, folder, root, program):
        self.root, self.program, self.script = folder, program, root / "tests/docs/experiments.py"
        shutil.copytree(root / "configs", folder / "configs")
        (folder / "docs").mkdir()
        shutil.copy(root / "docs/experiments.md", folder / "docs")
        self.page, self.bundles = folder / "docs/experiments.md", folder / "docs/results/experiments"
        text = folder / "persuasion.txt"
        text.write_bytes(lzma.decompress((root / "data/austen/persuasion.txt.xz").read_bytes()))
        made = folder / "corpora/small"
        self.run("prepare", "--input", text, "--blank-lines", "2", "--document-bytes", "20000", "--held-out", "0.1", "--output", made)
        for name in re.findall(r"corpora/small/(\w+)", (root / "configs/runs/sweep_small.yaml").read_text()):
            if not (made / name).exists():
                (made / name).symlink_to(made / "held_out")
        for name in re.findall(r"corpora/large/(\w+)", (root / "configs/runs/sweep_once.yaml").read_text()):
            if not (made / name).exists():
                (made / name).symlink_to(made / "held_out")
        (folder / "corpora/large").symlink_to(made)

    def run(self, *words, fails=False):
        got = subprocess.run([self.program, *map(str, words)], cwd=self.root, capture_output=True, text=True, check=False)
        check(fails or got.returncode == 0, f"{words}: {got.stderr}")
        return got.stdout

    def experiments(self, *words):
        got = subprocess.run([sys.executable, self.script, self.root, self.program, *words], capture_output=True, text=True, check=False)
        return got.returncode, got.stdout + got.stderr

    def write(self):
        code, says = self.experiments("--write")
        check(code == 0, f"the page cannot be written: {says}")
        code, says = self.experiments()
        check(code == 0, f"a page that was just written is found wrong: {says}")
        return self.page.read_text()

    def found(self, says):
        code, out = self.experiments()
        check(code == 1, f"{says}: not found")
        return out

    def pack(self, name, keep=lambda cell: True):
        """A bundle of the cells that `keep` keeps, losses made up."""
        sweep, folder = self.root / f"configs/sweeps/{name}.yaml", self.root / "sweeps" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.bundles / name, ignore_errors=True)
        cells = json.loads(self.run("sweep", sweep, "--dry-run", "--json", "set.data.train=none"))["cells"]
        keys = [cell["key"] for cell in json.loads(self.run("sweep", sweep, "--status", "--json"))["cells"]]
        for cell, key in zip(cells, keys):
            if not keep(cell):
                continue
            cell["key"] = key
            record, documents = made_up(cell)
            home = folder / "cells" / cell["key"]
            home.mkdir(parents=True)
            (home / "documents.json").write_text(json.dumps({"documents": documents}) + "\n")
            (home / "done.json").write_text(json.dumps(record) + "\n")
        self.run("sweep", sweep, f"folder={folder}", "--bundle", self.bundles / name)


def made_up(cell):
    """-> record and documents of a cell: a loss of its axes, as a finished run would leave them."""
    axes, noise = cell["axes"], random.Random(cell["key"])
    loss = 2.8 + 0.001 * cell["seed"] + noise.gauss(0, 0.0004)
    record = {"key": cell["key"], "rho": cell["rho"], "seed": cell["seed"], "held_out": "held_out"}
    if cell["rho"] is not None:
        loss += 0.15 * (cell["rho"] - BEST) ** 2
    if "table" in axes:
        record["table_rows"] = float(axes["table"])
        loss += SLOPE * math.log10(float(axes["table"]))
    loss += {"single_fusion": 0.009, "no_gate": 0.004}.get(axes.get("ablation"), 0.0)
    loss += 0.002 * abs(int(axes.get("placement", "[1]").strip("[]")) - 2)
    loss -= 0.02 * math.log2(5.0 / float(axes.get("model.engram.table.lr_mult", 5)))
    loss += 0.01 * abs(math.log(float(axes.get("optim.lr", 1.5e-3)) / 1.5e-3))
    record.update({"validation_loss": loss, "train_loss": loss - 0.25, "loss.held_out": loss, "loss.held_out_K": loss + 0.1, "budget": cell["budget"]})
    for name in ("rho", "optim.lr", "model.engram.table.lr_mult"):
        if name in axes:
            record["asked_rho" if name == "rho" else name] = float(axes[name])
    for name in ("ablation", "placement"):
        if name in axes:
            record[name] = axes[name]
    record.update({"parameters_total": cell["parameters"]["total"], "parameters_active": cell["parameters"]["active"],
                   "parameters_tables": cell["parameters"]["tables"], "flops_per_token": cell["flops_per_token"],
                   "tokens": cell["tokens"], "unique_tokens": cell["tokens"] / 2, "epochs": 2.0, "tokens_per_active": 46.0,
                   "steps": 4622, "seconds": 200.0, "tokens_per_second": 1.5e6, "failures": 0,
                   "documents": f"cells/{cell['key']}/documents.json"})
    draw = random.Random(7)  # the same documents for every cell
    drawn = [(1000 + i, draw.gauss(0, 0.2)) for i in range(40)]
    mean = sum(tokens * more for tokens, more in drawn) / sum(tokens for tokens, _ in drawn)  # theirs is to be the cell's loss
    documents = [[tokens, round(tokens * (loss + more - mean), 4)] for tokens, more in drawn]
    return record, documents


def section(page, name):
    return re.search(rf"<!-- made: {name} -->\n(.*?)<!-- end -->", page, re.S)[1]


def main():
    root, program = pathlib.Path(sys.argv[1]).resolve(), str(pathlib.Path(sys.argv[2]).resolve())
    with tempfile.TemporaryDirectory(prefix="mneme-experiments-") as scratch:
        place = Place(pathlib.Path(scratch), root, program)
        page = place.write()
        check(page.count("**Not run yet**") == len(experiments.SWEEPS), "without bundles the page must say of every sweep that it was not run")

        place.pack("small_h200", keep=lambda cell: cell["seed"] == 0 and cell["axes"]["rho"] in ("1.0", "0.7"))
        place.pack("ablations_h200", keep=lambda cell: cell["seed"] == 0 and cell["axes"]["ablation"] == "reference")
        page = place.write()
        small = section(page, "small")
        check("2 of 21 cells were run" in small and "Too few values of rho" in small and "| 0.7 | 2.80" in small, f"two cells: {small}")
        check("Too few cells for a comparison" in section(page, "ablations"), "one cell compared with none")
        place.pack("small_h200", keep=lambda cell: cell["seed"] == 0 and cell["axes"]["rho"] != "0.2")
        out = place.found("a new bundle that the page does not tell of")
        check("+" in out and "6 of 21 cells were run" in out, f"the difference is not shown: {out[:500]}")
        small = section(place.write(), "small")
        check("6 of 21 cells were run; **not run**: rho 0.2 of seed 0; all of seed 1; all of seed 2. " in small, f"missing cells: {small[:500]}")
        check("seed 1 |" not in small, "a column for a seed that was not run")

        place.pack("small_h200", keep=lambda cell: cell["seed"] < 2 or cell["axes"]["rho"] == "1.0")
        check("| not run |" in section(place.write(), "small"), "a hole in the table is not told")

        for name in ("small_h200", "medium_h200", "one_pass_h200", "short_h200", "learning_rate_h200", "high_rate_h200", "table_rate_h200",
                     "memory_scaling_h200", "memory_once_h200", "ablations_h200", "placement_h200"):
            place.pack(name)
        (place.bundles / "machines.json").write_text(json.dumps(
            {json.loads(line)["key"]: "one GPU of this test" for line in open(place.bundles / "small_h200/results.jsonl")}))
        page = place.write()
        check("Not run" not in page and "not run" not in section(page, "small"), "all were run")
        small = section(page, "small")
        minimum = float(re.search(r"\*\*rho ([\d.]+)\*\*", small)[1])
        check(abs(minimum - BEST) < 0.03 and "**A minimum is claimed: " in small, f"the planted minimum is not told: {small[:1500]}")
        check("one GPU of this test" in small and "loss_vs_rho.svg" in small and "`held_out_K`" in small, f"machine, figure, sets: {small}")
        slope = float(re.search(r"tenfold of rows \| (-[\d.]+)", section(page, "memory"))[1])
        check(abs(slope - SLOPE) < 0.002, f"the planted slope is not told: {slope}")
        check("| `single_fusion` | 4 | +0.00" in section(page, "ablations") and "Least loss: block 2" in section(page, "placement"),
              "ablations and placement")
        check("| 0.003 |" in section(page, "rates") and re.search(r"\*\*rho 0\.(6[5-9]|7[0-5])", section(page, "rates")), "rates")
        check(re.search(r"\| 0\.006 \| 2 \| 2\.8\d+ \| 2\.8\d+ \| \+0\.01", section(page, "high_rate")), f"faster: {section(page, 'high_rate')}")
        halved = float(re.search(r"\| 2\.5 \| 2 \| 2\.\d+ \| (-[\d.]+) ±", section(page, "table_rate"))[1])
        check("least loss by model.engram.table.lr_mult `2.5`: -0.0" in section(page, "overview"), "what came of the tables' rate")
        check("most is lost by ablation `single_fusion`: +0.0" in section(page, "overview"), "what came of the ablations")
        check(abs(halved + 0.02) < 0.002, f"the planted loss by the tables' rate is not told: {halved}")
        check("gain in 2.00 passes, as above" in section(page, "one_pass"), "one pass")
        check(re.search(r"\| 0\.8 \| .* \| 0\.2500 \| 0\.2500 \|", section(page, "one_pass")), "what was learned by heart")
        check(section(page, "memory_once").count("| 0.2500 |") == 6, "of each size what was learned by heart")

        # Faults: a digit of each section, a digit of a bundle, a section's mark, an unknown bundle.
        made = experiments.sections(place.root, place.program)
        check(page == experiments.filled(page, made), "the page made again is another")
        for name in made:
            old = section(page, name)
            digit = re.search(r"\d(?=[^\d]*\Z)", old)
            wrong = page.replace(old, old[:digit.start()] + str((int(digit[0]) + 1) % 10) + old[digit.end():])
            check(experiments.differences(wrong, experiments.filled(wrong, made)), f"a wrong digit in {name}: not found")
        place.page.write_text(wrong)
        place.found("a wrong digit")
        place.page.write_text(page.replace("<!-- made: rates -->\n", ""))
        place.found("a section without its mark")
        place.page.write_text(page)
        for name, old, new in (("results.jsonl", '"seed": 0', '"seed": 5'), ("fit.json", '"claim": true', '"claim": false')):
            path = place.bundles / "small_h200" / name
            text = path.read_text()
            changed = text.replace(old, new, 1)
            check(changed != text, f"{name}: nothing to change")
            path.write_text(changed)
            check("has changed" in place.found(f"a changed {name}"), f"a changed {name} is not named")
            path.write_text(text)
        (place.bundles / "stranger").mkdir()
        check("stranger" in place.found("a bundle that the page does not know"), "the stranger is not named")
        (place.bundles / "stranger").rmdir()
        check(place.experiments()[0] == 0, "the page as it was is found wrong")
        if len(sys.argv) > 3:  # to look at
            shutil.copytree(place.root / "docs", sys.argv[3], dirs_exist_ok=True)
    print("experiments_test: sound")


if __name__ == "__main__":
    main()
