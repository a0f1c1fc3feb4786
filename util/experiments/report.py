"""Records of an experiment as a table, a figure and JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from util.files import atomic_write
from util.plots import CURVE_COLORS, CURVE_STYLES, save_figure

Records = list[dict[str, Any]]
SHOWN = 2.5  # times the smallest error; what is larger is written at the figure's edge
PANELS = 5  # of curves, side by side


class Compared(NamedTuple):
    """`mean` error of a row in a column; its mean `difference` from the column's first row, seed by seed; the
    `half` width of that difference's 95 % interval (Student's t), 0 where there is none; mm. `answered`:
    share of the frames."""

    mean: float
    difference: float
    half: float
    answered: float


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
        lines.append([row, *(_cell(compared.get((row, column))) for column in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(cell: Compared | None) -> str:
    if cell is None:
        return "–"
    text, low, high = f"{cell.mean:.2f}", cell.difference - cell.half, cell.difference + cell.half
    text += f", {cell.difference:+.2f} [{low:+.2f}, {high:+.2f}]" if cell.half else ""
    return text + (f", {cell.answered:.0%} answered" if cell.answered < 1 else "")


def draw_dots(records: Records) -> Figure:
    """Mean errors of an experiment: a dot for each `row` and `column`, the interval of its difference, and a
    line through each column's first row.

    Args:
        records: each with `row`, `column`, `mpe_mm` and, where it was trained, `seed`.
    """
    rows, columns, compared = names_of(records, "row"), names_of(records, "column"), compare(records)
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(rows) * max(len(columns), 2)), layout="constrained")
    axes = figure.subplots()
    limit = SHOWN * min(dot.mean for dot in compared.values())
    drawn = set()
    for (row, column), (mean, _, half, _) in compared.items():
        i = columns.index(column)
        y = rows.index(row) + (i + 0.5) / len(columns) * 0.7 - 0.35
        color = CURVE_COLORS[i % len(CURVE_COLORS)]
        if column not in drawn:  # the first row
            axes.axvline(min(mean, limit), color=color, linewidth=0.8, linestyle=":", label=column)
            drawn.add(column)
        if mean > limit:
            axes.text(1, y, f"{mean:.0f} › ", transform=axes.get_yaxis_transform(), ha="right", color=color)
            continue
        axes.errorbar(mean, y, xerr=half, fmt="o", color=color, markersize=5, capsize=3)
        axes.annotate(f"{mean:.2f}", (mean + half, y), (8, -3), textcoords="offset points", fontsize=8)
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    bars = "; bars: 95 % of the difference from the first row" if "seed" in records[0] else ""
    axes.set_xlabel(f"mean error on the test split (mm){bars}")
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(columns))
    return figure


def draw_curves(records: Records) -> Figure:
    """Mean errors over the level of each thing that an experiment changes: a panel each, a line a `column`.

    Args:
        records: each with `curve`, `level`, `unit`, `column` and `mpe_mm`.
    """
    names = names_of(records, "curve")
    lines = -(-len(names) // PANELS)
    figure = Figure(figsize=(16, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, PANELS, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        axes.set_prop_cycle(CURVE_STYLES)
        here = [record for record in records if record["curve"] == name]
        for column in names_of(records, "column"):
            points = sorted((r["level"], r["mpe_mm"]) for r in here if r["column"] == column)
            axes.plot(*np.reshape(points, (-1, 2)).T, marker="o", markersize=4, label=column)
        axes.set(xlabel=f"{name} ({here[0]['unit']})", ylabel="mean error (mm)", ylim=(0, None))
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=8)
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
