"""Records of an experiment as a table, a figure and JSON.

Each has `row`, `column` and `mpe_mm`; `seed` where it was trained; where one thing changes `curve`, `level`,
`unit` and `answered`, the share of frames that it is of.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from util.experiments.cases import Records
from util.files import atomic_write
from util.plots import CURVE_COLORS, CURVE_STYLES, save_figure

SHOWN = 2.5  # times the smallest error; what is larger is written at the figure's edge


class Compared(NamedTuple):
    """`mean` error of a row in a column; its mean `difference` from the column's first row, seed by seed; the
    `half` width of that difference's 95 % interval (Student's t), 0 where there is none; mm."""

    mean: float
    difference: float
    half: float
    answered: float

    def __str__(self) -> str:
        text, low, high = f"{self.mean:.2f}", self.difference - self.half, self.difference + self.half
        text += f", {self.difference:+.2f} [{low:+.2f}, {high:+.2f}]" if self.half else ""
        return text + (f", {self.answered:.0%} answered" if self.answered < 1 else "")


def compare(records: Records) -> dict[tuple[str, str], Compared]:
    """Every (row, column), where something is measured."""
    errors: dict[str, dict[str, dict[int, float]]] = {}  # column -> row -> seed -> error
    for r in records:
        errors.setdefault(r["column"], {}).setdefault(r["row"], {})[r.get("seed", 0)] = r["mpe_mm"]
    answered = {(r["row"], r["column"]): r.get("answered", 1.0) for r in records}
    compared = {}
    for column, rows in errors.items():
        first = next(iter(rows.values()))
        for row, seeds in rows.items():
            pairs, half = [seeds[seed] - first[seed] for seed in seeds if seed in first], 0.0
            if len(pairs) > 1:
                half = student_t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5
            mean = np.mean(list(seeds.values()))
            compared[row, column] = Compared(mean, np.mean(pairs), half, answered[row, column])
    return compared


def names_of(records: Records, key: str) -> list[str]:
    """The different values of a key, in their order."""
    return list(dict.fromkeys(record[key] for record in records))


def as_markdown(records: Records) -> str:
    """MPE in mm by row and column; of seeds, the mean, the difference from the column's first row and its
    interval."""
    columns, compared = names_of(records, "column"), compare(records)
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    for row in names_of(records, "row"):
        lines.append([row, *(str(compared.get((row, column), "–")) for column in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_dots(records: Records) -> Figure:
    """A dot for each row and column, with the interval of its difference from the column's first row, and a
    line through that row's."""
    rows, columns, compared = names_of(records, "row"), names_of(records, "column"), compare(records)
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(rows) * max(len(columns), 2)), layout="constrained")
    axes, limit = figure.subplots(), SHOWN * min(dot.mean for dot in compared.values())
    for (row, column), (mean, _, half, _) in compared.items():
        i = columns.index(column)
        y = rows.index(row) + (i + 0.5) / len(columns) * 0.7 - 0.35
        color = CURVE_COLORS[i % len(CURVE_COLORS)]
        if row == next(first for first, other in compared if other == column):
            axes.axvline(min(mean, limit), color=color, linewidth=0.8, linestyle=":")
            axes.plot([], [], "o", color=color, label=column)
        if mean > limit:
            place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
            axes.text(1, y, f"{mean:.0f} › ", **place, color=color, fontsize=8)
            continue
        axes.errorbar(mean, y, xerr=half, fmt="o", color=color, markersize=5, capsize=3)
        axes.annotate(f"{mean:.2f}", (mean + half, y), (8, -3), textcoords="offset points", fontsize=8)
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    bars = "; bars: 95 % interval of the difference from the first row" if "seed" in records[0] else ""
    axes.set_xlabel(f"mean error on the test split (mm){bars}")
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(columns))
    return figure


def draw_curves(records: Records) -> Figure:
    """Mean errors over the levels of each curve: a panel each, with a line for every column. A number at a
    dot is the share of the frames that were answered, where that is not all."""
    names = names_of(records, "curve")
    lines = -(-len(names) // 3)
    figure = Figure(figsize=(13, 3.4 * lines), layout="constrained")
    panels = figure.subplots(lines, 3, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        axes.set_prop_cycle(CURVE_STYLES)
        here = [record for record in records if record["curve"] == name]
        for column in names_of(records, "column"):
            points = sorted((r["level"], r["mpe_mm"]) for r in here if r["column"] == column)
            axes.plot(*np.reshape(points, (-1, 2)).T, marker="o", markersize=4, label=column)
        for record in (r for r in here if r["answered"] < 1):
            text, place = f"{record['answered']:.0%}", (record["level"], record["mpe_mm"])
            axes.annotate(text, place, (4, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel=f"{name} ({here[0]['unit']})", ylabel="mean error (mm)", ylim=(0, None))
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)
    return figure


def write_report(folder: Path, records: Records) -> None:
    """figure.png, table.md and, last, table.json; nothing where they are of these records already."""
    content, table = json.dumps(records, indent=1) + "\n", folder / "table.json"
    if table.is_file() and table.read_text() == content:
        return
    save_figure((draw_curves if "curve" in records[0] else draw_dots)(records), folder / "figure.png")
    for path, text in ((folder / "table.md", as_markdown(records)), (table, content)):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
