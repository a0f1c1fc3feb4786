"""Records of an experiment as a table, a figure and JSON.

Each has `row`, `column` and `mpe_mm`; `seed` where it was trained; where one thing changes `curve`, `level`,
`unit` and `answered`, the share of frames that it is of.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from util.files import write_text
from util.plots import CURVE_COLORS, CURVE_STYLES, save_figure

Records = list[dict[str, Any]]
FEW = 0.95  # a smaller share of answered frames is written into a figure
SHOWN = 2.5  # times the smallest error; what is larger is at the figure's edge, with `›` after its number


def compare(records: Records) -> dict[str, dict[str, tuple[float, float, str]]]:
    """By column and row: the mean error, mm; half the width of the 95 % interval (Student's t) of its mean
    difference from the column's first row, seed by seed, 0 where there is none; and all that as text."""
    columns: dict[str, dict[str, Any]] = {}
    for record in ({"seed": 0} | record for record in records):
        columns.setdefault(record["column"], {}).setdefault(record["row"], []).append(record)
    for rows in columns.values():
        first = {r["seed"]: r["mpe_mm"] for r in next(iter(rows.values()))}
        for row, mine in rows.items():
            mean, pairs = np.mean([r["mpe_mm"] for r in mine]), [r["mpe_mm"] - first[r["seed"]] for r in mine]
            change, half, text = np.mean(pairs), 0.0, f"{mean:.2f}"
            if np.ptp(pairs) > 0:
                half = student_t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5
                text += f", {change:+.2f} [{change - half:+.2f}, {change + half:+.2f}]"
            if (answered := mine[0].get("answered", 1)) < 1:
                text += f", {answered:.0%} answered"
            rows[row] = (mean, half, text)
    return columns


def as_markdown(records: Records) -> str:
    """MPE in mm by row and column; of seeds, the mean, the difference from the column's first row and its
    interval."""
    cells = compare(records)
    lines = [["", *cells], ["---"] * (1 + len(cells))]
    for row in dict.fromkeys(record["row"] for record in records):
        lines.append([row, *(column[row][-1] if row in column else "–" for column in cells.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_dots(records: Records) -> Figure:
    """A dot for each row and column, with the interval of its difference from the column's first row, and a
    line through that row's."""
    rows, cells = list(dict.fromkeys(record["row"] for record in records)), compare(records)
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(rows) * max(len(cells), 2)), layout="constrained")
    axes, limit = figure.subplots(), SHOWN * min(record["mpe_mm"] for record in records)
    for i, (column, dots) in enumerate(cells.items()):
        style = {"color": CURVE_COLORS[i % len(CURVE_COLORS)]}
        for row, (mean, half, _) in dots.items():
            y, over = rows.index(row) + (i + 0.5) / len(cells) * 0.7 - 0.35, mean > limit
            x, half, text = (limit, 0, f"{mean:.2f} ›") if over else (mean, half, f"{mean:.2f}")
            bar = axes.errorbar(x, y, xerr=half, fmt="o", markersize=5, capsize=3, **style)
            axes.annotate(text, (x + half, y), (8, -3), textcoords="offset points", fontsize=8)
        first = min(next(iter(dots.values()))[0], limit)
        bar.set_label(column)
        axes.axvline(first, linewidth=0.8, linestyle=":", **style)
    bars = "\nbars: 95 % interval of the difference from the first row" if "seed" in records[0] else ""
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlabel(f"mean error on the test split (mm){bars}")
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(cells))
    return figure


def draw_curves(records: Records) -> Figure:
    """Mean errors over the levels of each curve: a panel each, with a line for every column. A number at a
    dot is the share of the frames that were answered, where many were not."""
    curves, columns = (list(dict.fromkeys(record[key] for record in records)) for key in ("curve", "column"))
    figure = Figure(figsize=(13, 3.4 * -(-len(curves) // 3)), layout="constrained")
    for i, curve in enumerate(curves, 1):
        axes = figure.add_subplot(-(-len(curves) // 3), 3, i, prop_cycle=CURVE_STYLES)
        here = [record for record in records if record["curve"] == curve]
        for column in columns:
            points = sorted((r["level"], r["mpe_mm"], r["answered"]) for r in here if r["column"] == column)
            axes.plot(*np.reshape(points, (-1, 3)).T[:2], marker="o", markersize=4, label=column)
            for x, y, answered in points:
                axes.annotate(f"{answered:.0%}" if answered < FEW else "", (x, y), fontsize=7)
        axes.set(xlabel=f"{curve} ({here[0]['unit']})", ylabel="mean error (mm)", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)
    return figure


def write_report(folder: Path, records: Records) -> None:
    """figure.png, table.md and, last, table.json; nothing where they are of these records already."""
    content, table = json.dumps(records, indent=1) + "\n", folder / "table.json"
    if table.is_file() and table.read_bytes() == content.encode():
        return
    save_figure((draw_curves if "curve" in records[0] else draw_dots)(records), folder / "figure.png")
    write_text(folder / "table.md", as_markdown(records))
    write_text(table, content)
