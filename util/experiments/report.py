"""Records of an experiment as a table, a figure and JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from util.files import atomic_write
from util.plots import draw_bars, draw_curves, save_figure

ENOUGH = 0.01  # of the error: smaller differences are called undecided, whatever the seeds say
LABELS = ("row", "column", "curve", "level", "unit", "seed", "mpe_mm", "median_mm")


def verdict(errors: list[float], reference: list[float]) -> str:
    """Whether some seeds' errors are better or worse than others' by more than 1 % and than their spread."""
    if min(len(errors), len(reference)) < 2:
        return "one seed"
    change = np.mean(errors) / np.mean(reference) - 1
    apart = max(errors) < min(reference) or min(errors) > max(reference)
    if not apart or abs(change) < ENOUGH:
        return "undecided"
    return f"{'worse' if change > 0 else 'better'} by {abs(change):.0%}"


def as_markdown(records: list[dict[str, Any]]) -> str:
    """MPE in mm by row and column. Of seeds: mean, lowest and highest, and the verdict against the column's
    first row. Then other numbers, means over the columns."""
    rows, columns = (list(dict.fromkeys(r[key] for r in records)) for key in ("row", "column"))
    extra = [key for key in records[0] if key not in LABELS]
    if "seed" in records[0] and len(columns) > 1:
        extra = []  # columns are networks, and these numbers are each one's own
    lines = [["", *columns, *extra]]
    for row in rows:
        line = [row]
        for column in columns:
            some = [r for r in records if r["column"] == column]
            errors, first = (
                [r["mpe_mm"] for r in some if r["row"] == name] for name in (row, some[0]["row"])
            )
            cell = f"{np.mean(errors):.2f}" if errors else "–"
            if "seed" in records[0] and errors:
                cell += f" ({min(errors):.2f} to {max(errors):.2f})" if len(errors) > 1 else ""
                cell += f", {verdict(errors, first)}" if row != some[0]["row"] else ""
            line.append(cell)
        line += [f"{np.mean([r[key] for r in records if r['row'] == row]):.3g}" for key in extra]
        lines.append(line)
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_report(folder: Path, records: list[dict[str, Any]]) -> None:
    """figure.png, table.md and, last, table.json."""
    save_figure((draw_curves if "curve" in records[0] else draw_bars)(records), folder / "figure.png")
    texts = {"table.md": as_markdown(records), "table.json": json.dumps(records, indent=1) + "\n"}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)


def is_reported(folder: Path, records: list[dict[str, Any]]) -> bool:
    """Whether the report there is of these records."""
    path = folder / "table.json"
    return path.is_file() and json.loads(path.read_text()) == records
