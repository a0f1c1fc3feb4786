"""Run an experiment: one of the paper's claims as a table, a figure and JSON.

python -m util.experiments supervision
"""

import json
import time
from pathlib import Path

from util.cli import run
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig


def main(config: ExperimentConfig) -> None:
    """Measure what is not measured yet, and write the report after each part."""
    if config.list:
        for name, (question, variants) in EXPERIMENTS.items():
            print(f"{name:22}{len(variants) * config.seeds:3} runs  {question}")
        return
    # Here, so that --help does not wait for PyTorch.
    from util.experiments.cases import scoring_cases, training_cases
    from util.experiments.report import write_report
    from util.files import atomic_write, locked_folder, read_json

    folder, runs = Path(config.output_dir, config.name), Path(config.output_dir, "runs")
    cases = (training_cases if config.trains else scoring_cases)(config)
    files = [runs / f"{case.name}.json" for case in cases]
    runs.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        records, seconds = [], []
        for i, (case, file) in enumerate(zip(cases, files, strict=True)):
            missing = sum(not other.is_file() for other in files[i:])
            if new := not file.is_file():
                left = f"{missing * sum(seconds) / len(seconds) / 60:.0f}" if seconds else "unknown"
                what = ", ".join(map(str, case.labels.values()))
                print(f"{i + 1} of {len(cases)}, minutes left: {left}: {what}", flush=True)
                began = time.monotonic()
                measured = {"records": case.measure(runs / case.name), "seconds": time.monotonic() - began}
                with atomic_write(file) as temporary:
                    temporary.write_text(json.dumps(case.settings | measured, indent=1) + "\n")
                for checkpoint in (runs / case.name).glob("*.pth"):
                    checkpoint.unlink()
            measured = read_json(file)
            seconds.append(measured["seconds"])
            # A case that is one row is decoded in the paper's way, the first.
            some = measured["records"][: 1 if "row" in case.labels else None]
            records += [record | case.labels for record in some]
            if new or case is cases[-1]:
                write_report(folder, records)
    print((folder / "table.md").read_text() + f"Written to {folder}/")


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExperimentConfig)
