"""Run an experiment: one of the paper's claims as a table, a figure and JSON.

python -m util.experiments supervision
"""

import json
import time
from pathlib import Path

from util.cli import run
from util.experiments.catalog import EXPERIMENTS, ExperimentConfig, listing


def main(config: ExperimentConfig) -> None:
    """Measure what is not measured yet, and write the report after each part."""
    if config.list:
        print(listing(config))
        return
    # Here, so that --help does not wait for PyTorch.
    from util.experiments.report import is_reported, write_report
    from util.experiments.scoring import scoring_cases
    from util.experiments.training import training_cases
    from util.files import atomic_write, locked_folder, read_json

    folder, runs = Path(config.output_dir, config.name), Path(config.output_dir, "runs")
    cases = (training_cases if EXPERIMENTS[config.name][1] else scoring_cases)(config)
    runs.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        records, slowness = [], 1.0
        for i, case in enumerate(cases):
            file = runs / f"{case.name}.json"
            missing = not file.is_file()
            if missing:
                left = sum(c.seconds for c in cases[i:] if not (runs / f"{c.name}.json").is_file())
                what = ", ".join(f"{key} {value}" for key, value in case.labels.items())
                print(f"{i + 1} of {len(cases)}, {slowness * left / 60:.0f} minutes left: {what}", flush=True)
                began = time.monotonic()
                measured = case.settings | {"records": case.measure(runs / case.name)}
                slowness = (time.monotonic() - began) / case.seconds
                with atomic_write(file) as temporary:
                    temporary.write_text(json.dumps(measured, indent=1) + "\n")
                for checkpoint in (runs / case.name).glob("*.pth"):
                    checkpoint.unlink()
            records += [case.labels | record for record in read_json(file)["records"]]
            if missing or (case is cases[-1] and not is_reported(folder, records)):
                write_report(folder, records)
    print((folder / "table.md").read_text() + f"Written to {folder}/")


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], ExperimentConfig)
