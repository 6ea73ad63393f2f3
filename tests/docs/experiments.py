#!/usr/bin/env python3
"""Makes the figures and tables of docs/experiments.md from the bundles of docs/results/experiments, or checks them.

    experiments.py ROOT PROGRAM [--write]

A bundle is what `mneme sweep --bundle docs/results/experiments/NAME` packs; its cells may be some of the sweep's. What stands
between <!-- made: NAME --> and <!-- end --> is made here: of the grid of configs/sweeps, of the bundle's cells and, where they
are enough for one, of its fit, which PROGRAM makes again (`mneme sweep --verify`). machines.json beside the bundles may name a
machine for each cell's key. Exit 1 where a bundle is not what it was, or the page says else.
"""

import difflib
import json
import pathlib
import re
import subprocess
import sys

SWEEPS = ("small_h200", "medium_h200", "one_pass_h200", "short_h200", "learning_rate_h200", "high_rate_h200", "table_rate_h200",
          "memory_scaling_h200", "memory_once_h200", "ablations_h200", "placement_h200")
# arXiv 2601.07372, read off the plots of figures 3 and 5 to about 0.0005 nats; lines through them are our own fits.
PAPER_SLOPE, PAPER_EXPONENT = -0.0284, 0.0070
PAPER_ABLATIONS = {"single_fusion": 0.0065, "no_compression": 0.0057, "no_gate": 0.0046, "four_grams": 0.0017,
                   "no_convolution": 0.0005}
PAPER_LAYERS = (1.7730, 1.7705, 1.7748, 1.7762, 1.7786, 1.7774, 1.7793, 1.7802, 1.7808, 1.7810, 1.7824, 1.7822)
PAPER_CURVE = {"2e20 FLOPs": (0.726, 0.693, 0.765, 0.85, 0.0137), "6e20 FLOPs": (0.738, 0.703, 0.785, 0.849, 0.0153)}
BLOCK = re.compile(r"(<!-- made: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)
NOTHING = "–"
TOO_FEW = "Too few values of rho for a curve.\n"


class Fault(Exception):
    """Of a bundle or of the page."""


def nats(value, sign=False):
    return NOTHING if value is None else f"{value:+.4f}" if sign else f"{value:.4f}"


def give_or_take(value, half, sign=True):
    return nats(value, sign) + ("" if half is None else f" ± {half:.4f}")


def interval(low_high, digits=3):
    """An end that lies beyond the cells is absent."""
    if low_high == [None, None]:
        return "(no interval)"
    return "[" + ", ".join("beyond" if end is None else f"{end:.{digits}f}" for end in low_high) + "]"


def percent(level):
    return f"{100 * level:g} %"


def short(number):
    return f"{number:g}".replace("e+", "e")


def words(items):
    items = list(items)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def count(number, noun):
    return f"{number} {noun}" + ("" if number == 1 else "s")


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def by_heart(cells):
    """Held-out loss less that of the last twentieth of training: what was learned of the text alone."""
    return mean(c["validation_loss"] - c["train_loss"] for c in cells)


def table(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def run(program, *arguments):
    got = subprocess.run([program, "sweep", *map(str, arguments)], capture_output=True, text=True, check=False)
    if got.returncode:
        raise Fault(got.stderr.strip() or f"{arguments}: exit {got.returncode}")
    return got.stdout


def plain(value):
    """An axis' value, from JSON or from YAML's text, to be compared."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


COLUMNS = {"rho": "asked_rho", "table": "table_rows"}


class Sweep:
    """A file of configs/sweeps and what is packed of it."""

    def __init__(self, root, program, name):
        self.name, self.folder = name, root / "docs/results/experiments" / name
        # Of a corpus that is not there: nothing is asked but the grid, and hours cost seconds.
        self.grid = json.loads(run(program, root / f"configs/sweeps/{name}.yaml", "--dry-run", "--json", "set.data.train=none"))["cells"]
        self.cells, self.machines = [], []
        self.fit = {"allocations": [], "memory_scaling": [], "comparisons": [], "documents": None}
        if not self.folder.exists():
            return
        run(program, "--verify", self.folder)
        self.cells = [json.loads(line) for line in (self.folder / "results.jsonl").read_text().splitlines()]
        if (self.folder / "fit.json").exists():
            self.fit = json.loads((self.folder / "fit.json").read_text())
        places = [self.place({axis: cell[COLUMNS.get(axis, axis)] for axis in self.axes()}) for cell in self.cells]
        unknown = [cell["key"] for cell, place in zip(self.cells, places) if place not in self.places()]
        if unknown or len(set(places)) < len(places):
            raise Fault(f"{self.folder}: cells that configs/sweeps/{name}.yaml does not have, or has once: {unknown or places}")
        self.left = [place for place in self.places() if place not in places]
        kept = root / "docs/results/experiments/machines.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        self.machines = sorted({known[cell["key"]] for cell in self.cells if cell["key"] in known})

    def axes(self):
        return [axis for axis in self.grid[0]["axes"] if len({c["axes"][axis] for c in self.grid}) > 1]

    def place(self, values):
        return tuple((axis, plain(values[axis])) for axis in self.axes())

    def places(self):
        return [self.place(cell["axes"]) for cell in self.grid]

    def state(self):
        """What was run, in a sentence."""
        total = len(self.grid)
        if not self.cells:
            return f"**Not run yet**: none of the {total} cells.\n"
        first = self.cells[0]
        text = f"{'All' if not self.left else len(self.cells)} {'' if not self.left else 'of '}{total} cells were run"
        if self.left:
            seeds = {}
            for place in self.left:
                rest = " ".join(f"{axis} {short(v) if isinstance(v, float) else v}" for axis, v in place if axis != "seed")
                seeds.setdefault(dict(place).get("seed", first["seed"]), []).append(rest)
            of_a_seed = total / len({dict(place).get("seed") for place in self.places()})
            text += "; **not run**: " + "; ".join(f"{'all' if len(rest) == of_a_seed else words(rest)} of seed {short(seed)}"
                                                  for seed, rest in sorted(seeds.items()))
        text += f". {first['tokens'] / 1e6:.0f} M tokens a cell, {first['epochs']:.2f} passes over the corpus"
        # None of a cell that had nothing left to train when it was gone on with.
        if rates_seen := sorted(c["tokens_per_second"] / 1e6 for c in self.cells if c["tokens_per_second"]):
            text += f", at {rates_seen[0]:.2f} to {rates_seen[-1]:.2f} M tokens a second"
        if self.machines:
            text += " (" + words(self.machines) + ")"
        text += f". Losses are nats a token of `{first['held_out']}`"
        return text + (f", {self.fit['documents']} documents.\n" if self.fit["documents"] else ".\n")

    def allocation(self):
        """The one curve over rho; None where there is none, or several."""
        return self.fit["allocations"][0] if len(self.fit["allocations"]) == 1 else None

    def beside(self, name):
        return f"results/experiments/{self.name}/{name}"

    def figure(self, name, says):
        if not (self.folder / name).exists():
            raise Fault(f"{self.folder}: a bundle whose fit has a curve, but no {name}")
        return f"![{says}]({self.beside(name)})\n"


# ---- Sections


def by_rho(cells):
    rows = {}
    for cell in cells:
        rows.setdefault(cell["asked_rho"], {})[cell["seed"]] = cell
    return dict(sorted(rows.items(), reverse=True))


def curve_table(sweep):
    rows, seeds, allocation = by_rho(sweep.cells), sorted({c["seed"] for c in sweep.cells}), sweep.allocation()
    gains = {round(gain["rho"], 9): gain for gain in allocation["gains"]} if allocation else {}
    out = []
    for asked, cells in rows.items():
        gain = gains.get(round(next(iter(cells.values()))["rho"], 9))
        means = [nats(mean([c["validation_loss"] for c in cells.values()]))] if len(seeds) > 1 else []
        row = [short(asked), *(nats(cells[s]["validation_loss"]) if s in cells else "not run" for s in seeds), *means]
        if allocation and gain is None:
            row += ["", "", ""]
        elif allocation:
            row += [give_or_take(gain["nats"], gain["half_width"]), nats(gain["seed_error"] or None),
                    nats(gain["document_error"] or None)]
        out.append(row)
    head = ["rho", *(f"seed {s}" for s in seeds), *(["mean"] if len(seeds) > 1 else [])]
    if allocation:
        head += [f"gain over rho {short(allocation['baseline'])}", "its error by seeds", "by documents"]
    return table(head, out)


def curve_parts(sweep):
    """State, figure, table, minimum, noise: what every sweep over rho has."""
    out, allocation = [sweep.state()], sweep.allocation()
    if allocation:
        out.append(sweep.figure("loss_vs_rho.svg", f"Loss over rho, {count(allocation['cells'], 'cell')}"))
    if sweep.cells:
        out.append(curve_table(sweep))
        out.append(minimum_text(sweep.fit, allocation) + noise_text(allocation) if allocation else TOO_FEW)
    return out


def minimum_text(fit, allocation):
    forms = allocation["forms"]
    if not forms:
        return TOO_FEW
    text = f"Minimum of the {forms[0]['name']}: **rho {forms[0]['minimum']:.3f}**" if forms[0]["minimum"] is not None else \
        f"The {forms[0]['name']} has no minimum"
    text += f", {percent(fit['level'])} interval {interval(forms[0]['interval'])}; "
    text += "; ".join(f"{form['name']} " + (f"{form['minimum']:.3f} {interval(form['interval'])}" if form["minimum"] is not None
                                            else "none") for form in forms[1:])
    text += f"{'; ' if forms[1:] else ''}least mean at rho {allocation['raw_minimum']:.2f}. "
    return text + f"**{allocation['verdict'][0].upper()}{allocation['verdict'][1:]}.**\n"


def noise_text(allocation):
    gains = [g for g in allocation["gains"] if g["nats"] > 0]
    if not gains:
        return "No mixture is better than experts alone.\n"
    best = max(gains, key=lambda g: g["nats"])
    text = f"The largest gain is {nats(best['nats'])} nats at rho {best['rho']:.2f}"
    if not allocation["seed_sd"]:
        return text + "; one seed a rho says nothing of the noise between seeds.\n"
    return text + f", {best['nats'] / allocation['seed_sd']:.1f} times the standard deviation between seeds " \
                  f"({allocation['seed_sd']:.4f}).\n"


def sets_table(sweep):
    """Gains over the largest rho by held-out set, over the seeds that both have."""
    rows = by_rho(sweep.cells)
    if not rows:
        return ""
    base = rows[max(rows)]
    names = [n[len("loss."):] for n in sweep.cells[0] if n.startswith("loss.")]
    out = []
    for asked, cells in rows.items():
        shared = [s for s in cells if s in base]
        if cells is base or not shared:
            continue
        out.append([short(asked), *(nats(mean([base[s]["loss." + n] - cells[s]["loss." + n] for s in shared]), True)
                                    for n in names)])
    if not out:
        return ""
    return f"Gains over rho {short(max(rows))} by held-out set (classes: [corpus.md](corpus.md#what-comes-out)):\n\n" + \
        table(["rho", *(f"`{n}`" for n in names)], out)


def paper_curve():
    rows = [[what, f"{m:.3f} [{low:.3f}, {high:.3f}]", short(raw), nats(gain, True)]
            for what, (m, low, high, raw, gain) in PAPER_CURVE.items()]
    return "The paper's points through the same fit:\n\n" + \
        table(["budget", "minimum of the quadratic, 90 %", "least point at", "its gain over rho 1"], rows)


def curve(sweep):
    return curve_parts(sweep) + [sets_table(sweep)]


def one_pass(sweep, small):
    out = curve_parts(sweep)
    if sweep.allocation() and small.allocation():
        gains = [{round(g["rho"], 2): g["nats"] for g in s.allocation()["gains"]} for s in (sweep, small)]
        cells = [by_rho(s.cells) for s in (sweep, small)]
        rows = [[short(asked), *(nats(found.get(round(asked, 2)), True) for found in gains),
                 *(nats(by_heart(found[asked].values()) if asked in found else None) for found in cells)] for asked in cells[0]]
        passes = [f"{s.cells[0]['epochs']:.2f} passes" for s in (sweep, small)]
        out.append("Held-out loss less training loss, the mean of its last 5 % of steps, shows how much was learned of the training text alone.\n")
        out.append(table(["rho", f"gain in {passes[0]}", f"gain in {passes[1]}, as above",
                          *(f"held out less training, {p}" for p in passes)], rows))
    return out + [sets_table(sweep)]


def rates(sweep):
    """Means over the seeds that all rho of a rate have, and so are the gains."""
    out = [sweep.state()]
    if not sweep.cells:
        return out
    lrs = sorted({c["optim.lr"] for c in sweep.cells})
    rhos = sorted({c["asked_rho"] for c in sweep.cells}, reverse=True)
    rows = []
    for lr in lrs:
        losses = {rho: {c["seed"]: c["validation_loss"] for c in sweep.cells if (c["optim.lr"], c["asked_rho"]) == (lr, rho)}
                  for rho in rhos}
        seeds = set.intersection(*(set(found) for found in losses.values()))
        means = [mean(found[s] for s in seeds) if seeds else None for found in losses.values()]
        rows.append([short(lr), str(len(seeds)), *(nats(m) if seeds else "not run" for m in means),
                     *(nats(means[0] - m if seeds else None, True) for m in means[1:])])
    out.append(table(["`optim.lr`", "seeds", *(f"rho {short(r)}" for r in rhos), *(f"gain at {short(r)}" for r in rhos[1:])], rows))
    for allocation in sweep.fit["allocations"][:1]:
        out += [sweep.figure("loss_vs_rho.svg", f"Loss over rho at {len(lrs)} rates"),
                "One curve through all, each rate with a level of its own. " + minimum_text(sweep.fit, allocation)]
    return out


def table_rate(sweep):
    out = [sweep.state()]
    found = comparison(sweep, "model.engram.table.lr_mult")
    if found is None:
        return out + (["Too few cells for a comparison.\n"] if sweep.cells else [])
    rows = [[f"{value['value']}", str(value["cells"]), nats(value["mean"]),
             "reference" if value is found["values"][0] else give_or_take(value["difference"], value["half_width"])]
            for value in found["values"]]
    return out + [table(["tables' rate over the others'", "seeds", "mean loss", f"loss more, {percent(sweep.fit['level'])}"], rows)]


def memory(sweep):
    out = [sweep.state()]
    if not sweep.cells:
        return out
    sizes, rows = sorted({c["table_rows"] for c in sweep.cells}), []
    for size in sizes:
        cells = [c for c in sweep.cells if c["table_rows"] == size]
        rows.append([f"{size:,.0f}", f"{cells[0]['parameters_tables'] / 1e6:.1f} M", str(len(cells)),
                     nats(mean(c["validation_loss"] for c in cells)), nats(mean(c["train_loss"] for c in cells)), nats(by_heart(cells))])
    out.append(table(["rows of a sub-table", "parameters of tables", "seeds", "mean loss", "of training, its last twentieth", "the difference"],
                     rows))
    for scaling in sweep.fit["memory_scaling"][:1]:
        line, power, floor = scaling["log_linear"], scaling["power_law"], scaling["power_law_with_floor"]
        beside = [["loss, nats a tenfold of rows", f"{line['slope']:+.4f} {interval(line['interval'], 4)}", f"{PAPER_SLOPE:+.4f}"],
                  ["exponent of a power law", f"{power['exponent']:.4f} {interval(power['interval'], 4)}", f"{PAPER_EXPONENT:.4f}"]]
        out += [sweep.figure("loss_vs_table.svg", f"Loss over table size, {count(scaling['cells'], 'cell')}"),
                table(["", f"here, {percent(sweep.fit['level'])}", "paper"], beside),
                ("A floor cannot be told from none.\n" if floor is None else
                 f"With a floor the exponent is {floor['exponent']:.4f}.\n")]
    return out


def comparison(sweep, column):
    found = [c for c in sweep.fit["comparisons"] if c["column"] == column]
    return found[0] if found else None


def ranks(values):
    """1 for the largest."""
    order = sorted(values, key=values.get, reverse=True)
    return {name: order.index(name) + 1 for name in values}


def ablations(sweep):
    out = [sweep.state()]
    found = comparison(sweep, "ablation")
    if found is None:
        return out + (["Too few cells for a comparison.\n"] if sweep.cells else [])
    reference, rest = found["values"][0], found["values"][1:]
    ours, paper = ranks({v["value"]: v["difference"] for v in rest}), ranks(PAPER_ABLATIONS)
    rows = [[f"`{v['value']}`", str(v["cells"]), give_or_take(v["difference"], v["half_width"]), str(ours[v["value"]]),
             nats(PAPER_ABLATIONS[v["value"]], True), str(paper[v["value"]])] for v in rest]
    missing = [name for name in PAPER_ABLATIONS if name not in ours]
    rows += [[f"`{name}`", "0", "not run", "", nats(PAPER_ABLATIONS[name], True), str(paper[name])] for name in missing]
    told = [v["value"] for v in rest if v["half_width"] is not None and abs(v["difference"]) > v["half_width"]]
    return out + [f"Loss of the reference ({count(reference['cells'], 'seed')}), levels of seeds taken out: {nats(reference['mean'])}.\n",
                  table(["without", "seeds", f"loss more, {percent(sweep.fit['level'])}", "rank", "paper", "paper's rank"], rows),
                  ("Told from nothing: " + words(f"`{name}`" for name in told) if told else "None is told from nothing") + ".\n"]


def placement(sweep):
    out = [sweep.state()]
    found = comparison(sweep, "placement")
    if found is None:
        return out + (["Too few cells for a comparison.\n"] if sweep.cells else [])
    rows = []
    for value in sorted(found["values"], key=lambda v: str(v["value"])):
        block = int(str(value["value"]).strip("[]"))
        own, depth = PAPER_LAYERS[block] - PAPER_LAYERS[1], PAPER_LAYERS[2 * block] - PAPER_LAYERS[1]
        rows.append([str(block), str(value["cells"]), nats(value["mean"]),
                     "reference" if value is found["values"][0] else give_or_take(value["difference"], value["half_width"]),
                     nats(own, True), nats(depth, True)])
    best = min(found["values"], key=lambda v: v["mean"])
    return out + [table(["block", "seeds", "mean loss", f"against block 1, {percent(sweep.fit['level'])}",
                         "paper, same block of 12", "paper, same share of depth"], rows),
                  f"Least loss: block {str(best['value']).strip('[]')}. The paper's: block 1, its layer 2.\n"]


def came_out(sweep):
    """In a few words."""
    if not sweep.cells:
        return "not run yet"
    fit, said = sweep.fit, []
    for only in fit["allocations"][:1]:
        if only["forms"]:
            form = only["forms"][0]
            said.append("no minimum" if form["minimum"] is None else
                        f"minimum rho {form['minimum']:.3f} {interval(form['interval'])}, {'claimed' if only['claim'] else 'not claimed'}")
        best = max(only["gains"], key=lambda g: g["nats"], default=None)
        if best:
            said.append(f"gain {give_or_take(best['nats'], best['half_width'])} at rho {best['rho']:.2f}")
    for scaling in fit["memory_scaling"][:1]:
        line = scaling["log_linear"]
        said.append(f"loss {line['slope']:+.4f} nats a tenfold of rows {interval(line['interval'], 4)}")
    for column in ("ablation", "placement", "model.engram.table.lr_mult"):
        found = comparison(sweep, column)
        if found:
            least = min(found["values"][1:], key=lambda v: v["difference"])
            most = max(found["values"][1:], key=lambda v: v["difference"])
            # Of parts that are left out the dearest; of other values the best, if one is better than the first.
            far = most if column == "ablation" or least["difference"] >= 0 else least
            says = "most is lost by" if far is most and far["difference"] > 0 else "least loss by"
            said.append(f"{says} {column} `{far['value']}`: {give_or_take(far['difference'], far['half_width'])}")
    return "; ".join(said) or "too few cells to say"


def overview(sweeps):
    return [table(["sweep", "cells run", "what came out"],
                  [[f"`{s.name}`", f"{len(s.cells)} of {len(s.grid)}", came_out(s)] for s in sweeps.values()])]


def scale(sweeps):
    """Ours beside the paper's: of the grid, which is there whether or not it was run."""
    cells = {name: next(c for c in sweeps[name].grid if c["rho"] in (1, None)) for name in ("small_h200", "medium_h200")}
    rows = [["parameters without vocabulary"], ["active"], ["total / active"], ["tokens a cell"], ["tokens an active parameter"],
            ["FLOPs, 6 x active x tokens"]]
    for cell in cells.values():
        total, active, tokens = cell["parameters"]["total"], cell["parameters"]["active"], cell["tokens"]
        for row, text in zip(rows, (f"{total / 1e6:.1f} M", f"{active / 1e6:.1f} M", f"{total / active:.1f}",
                                    f"{tokens / 1e6:.0f} M", f"{tokens / active:.0f}", short(cell["budget"]))):
            row.append(text)
    for row, pair in zip(rows, (("5.7 B", "9.9 B"), ("568 M", "993 M"), ("10.0", "10.0"), ("58.7 B", "100.7 B"), ("103", "101"),
                                ("2e20", "6e20"))):
        row += pair
    return [table(["", *(f"`{name}`" for name in cells), "paper", "paper"], rows)]


def sections(root, program):
    sweeps = {name: Sweep(root, program, name) for name in SWEEPS}
    folder = root / "docs/results/experiments"
    strangers = [p.name for p in folder.iterdir() if p.is_dir() and p.name not in SWEEPS] if folder.exists() else []
    if strangers:
        raise Fault(f"{folder}: bundles that the page does not tell of: {words(strangers)}")
    return {"overview": overview(sweeps), "scale": scale(sweeps), "small": [*curve(sweeps["small_h200"]), paper_curve()],
            "medium": curve(sweeps["medium_h200"]), "one_pass": one_pass(sweeps["one_pass_h200"], sweeps["small_h200"]),
            "short": curve(sweeps["short_h200"]),
            "rates": rates(sweeps["learning_rate_h200"]), "high_rate": rates(sweeps["high_rate_h200"]),
            "table_rate": table_rate(sweeps["table_rate_h200"]), "memory": memory(sweeps["memory_scaling_h200"]),
            "memory_once": memory(sweeps["memory_once_h200"]),
            "ablations": ablations(sweeps["ablations_h200"]), "placement": placement(sweeps["placement_h200"])}


def filled(page, made):
    told = [name for _, name, _, _ in BLOCK.findall(page)]
    if sorted(told) != sorted(made):
        raise Fault(f"docs/experiments.md: marks {told}, and not each of {sorted(made)} once")
    return BLOCK.sub(lambda m: m[1] + "\n".join(part for part in made[m[2]] if part) + m[4], page)


def differences(page, wanted):
    return list(difflib.unified_diff(page.splitlines(), wanted.splitlines(), "the page", "its bundles", lineterm="", n=0))


def main():
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    if len(arguments) != 2:
        sys.exit(__doc__)
    root, program = pathlib.Path(arguments[0]).resolve(), str(pathlib.Path(arguments[1]).resolve())
    path = root / "docs/experiments.md"
    page = path.read_text()
    try:
        wanted = filled(page, sections(root, program))
    except Fault as why:
        sys.exit(f"experiments.py: {why}")
    if "--write" in sys.argv:
        path.write_text(wanted)
    elif page != wanted:
        print("\n".join(differences(page, wanted)))
        sys.exit("experiments.py: docs/experiments.md is not what its bundles say; tests/docs/experiments.py . build/mneme --write")
    print(f"{path.relative_to(root)}: as its bundles say")


if __name__ == "__main__":
    main()
