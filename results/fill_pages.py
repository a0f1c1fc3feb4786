"""Write the scores of the shipped weights into the pages, from results/*/metrics.json.

A page marks the place of a number with two comments: `<!-- resnet_18 mpe -->…<!-- -->`.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *(ROOT / "docs").glob("*.md")]
MARK = re.compile(r"(<!-- (\w+) (\w+) -->).*?(<!-- -->)")
FORMATS = {
    "mpe": "{mpe_mm:.2f} mm [{mpe_interval_mm[0]:.2f}, {mpe_interval_mm[1]:.2f}]",
    "mean": "{mpe_mm:.2f}",
    "median": "{median_mm:.2f} mm",
    "auc": "{auc:.3f}",
}


def fill(page: str) -> str:
    """The text of a page with the present numbers."""

    def number(mark: re.Match) -> str:
        scores = json.loads((ROOT / "results" / f"{mark[2]}_synth" / "metrics.json").read_text())
        return mark[1] + FORMATS[mark[3]].format(**scores) + mark[4]

    return MARK.sub(number, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(fill(path.read_text()))
