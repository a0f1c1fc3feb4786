"""Measure the plain way and ours in turn, as a table and as JSON.

python -m util.benchmark --rows head,metrics --json benchmark.json
"""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

from util import UserError
from util.benchmark.settings import BenchmarkConfig
from util.cli import run

ROWS = "head_, memory_ (of a GPU), metrics_, crop, cached_, loader_, frame_, batch32_, moved_, live_, train_"

# Most imports are inside the function, so that --help does not wait for PyTorch.


def main(config: BenchmarkConfig) -> None:
    """Measure the chosen rows; print and write each as soon as it is known."""
    import torch

    from util.benchmark.measure import describe_machine
    from util.benchmark.networks import load_for_benchmark, network_rows
    from util.benchmark.rows import head_rows, loading_rows, metrics_rows
    from util.device import pick_device, usable_precision
    from util.files import atomic_write

    device, path = pick_device(config.device), Path(config.json)
    precision = usable_precision(device, config.precision)
    if precision != config.precision:
        print(f"{config.precision} is not faster on this {device}: training steps are in {precision}.")
    config = replace(config, precision=precision)
    if config.threads:
        torch.set_num_threads(config.threads)
    networks = [load_for_benchmark(config, net, device) for net in config.nets.split(",")]
    machine, rows = describe_machine(device), []
    print(machine)
    print(f"{'row':42} {'plain':>12} {'ours':>12} {'ratio':>8}  unit")
    before = head_rows(config, device), metrics_rows(config), loading_rows(config)
    for row in chain(*before, *(network_rows(config, network, device) for network in networks)):
        print(f"{row.name:42} {row.plain:12.3f} {row.ours:12.3f} {row.ratio:7.2f}×  {row.unit}", flush=True)
        rows.append(row._asdict())
        with atomic_write(path) as temporary:  # after every row: whatever fails later, it is kept
            temporary.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    if not rows:
        raise UserError(f"No row starts with {config.rows!r}: they start with {ROWS}.")
    print(f"Written to {path}")


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], BenchmarkConfig)
