"""Run an experiment: one of the paper's claims as a table, a figure and JSON.

python -m util.experiments supervision
"""

import json
import time
from pathlib import Path

from util import UserError
from util.cli import run
from util.experiments.catalog import QUESTIONS, VARIANTS, ExperimentConfig


def main(config: ExperimentConfig) -> None:
    """Measure what is not measured yet, and write the report after each part."""
    if config.list:
        for name, question in QUESTIONS.items():
            print(f"{name:22}{len(VARIANTS.get(name, ())) * config.seeds:3} runs  {question}")
        return
    # Here, so that --help does not wait for PyTorch.
    from util.experiments.cases import find_cases, measure
    from util.experiments.report import write_report
    from util.files import locked_folder, read_json, write_text

    folder, runs = Path(config.output_dir, config.name), Path(config.output_dir, "runs")
    cases, records, seconds = find_cases(config), [], []
    with locked_folder(folder):
        for i, case in enumerate(cases):
            file = runs / f"{case.name}.json"
            if new := not file.is_file():
                left = f"{(len(cases) - i) * sum(seconds) / i / 60:.0f}" if i else "unknown"
                print(f"{i + 1} of {len(cases)}, minutes left: {left}:", *case.labels.values(), flush=True)
                began = time.monotonic()
                measured = measure(case, file.with_suffix(""))
                content = case.settings | {"records": measured, "seconds": time.monotonic() - began}
                write_text(file, json.dumps(content, indent=1) + "\n")
                for checkpoint in file.with_suffix("").glob("*.pth"):
                    checkpoint.unlink()
            content = read_json(file)
            try:
                seconds.append(float(content["seconds"]))
                # A case that is one row is decoded in the paper's way, the first.
                some = content["records"][: 1 if "row" in case.labels else None]
                records += [record | case.labels | {"mpe_mm": float(record["mpe_mm"])} for record in some]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file} is damaged: delete it, and it is measured again.") from error
            if new or case is cases[-1]:
                write_report(folder, records)
    print((folder / "table.md").read_text() + f"Written to {folder}/")


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExperimentConfig)
