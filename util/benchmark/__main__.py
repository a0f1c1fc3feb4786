"""The plain way and ours, in turn in one run, as a table and as JSON.

python -m util.benchmark --rows head,metrics --json benchmark.json
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from dataloader import build_dataset
from util.benchmark.loading import loading_rows, metrics_rows, sweep_frames, sweep_workers
from util.benchmark.measure import BenchmarkConfig, Row, describe_machine
from util.benchmark.networks import as_trained, head_rows, network_rows, sweep_batch
from util.benchmark.training import compare_curves, compare_training, describe_curves, draw_batches
from util.cli import run
from util.device import pick_device, usable_precision
from util.files import atomic_write
from util.training.distributed import Processes

LOADING = ("crop", "memory_crop", "cached_sample", "memory_cached_sample", "loader_decoded", "loader_cached")
HEAD = ("head_decode", "memory_head_decode", "head_encode", "memory_head_encode")


def main(config: BenchmarkConfig) -> None:
    """Measure what is asked for, print each row as it is known, and write them all."""
    device = pick_device(config.device)
    precision = usable_precision(device, config.precision)
    if precision != config.precision:
        print(f"{config.precision} gains nothing on this {device}: training steps are in {precision}.")
    config = replace(config, precision=precision)
    if config.threads:
        torch.set_num_threads(config.threads)
    path = Path(config.json or Path(config.output_dir, "benchmark.json"))
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(run_rows(config, device), indent=1) + "\n")
    print(f"Written to {path}")


def run_rows(config: BenchmarkConfig, device: torch.device) -> dict:
    """Measure, print, and return what goes into the JSON file."""
    machine = describe_machine(device)
    print(machine)
    print(f"{'row':38} {'plain':>12} {'ours':>12} {'ratio':>8}  unit")
    rows, content = [], {"machine": machine}
    for row in measure(config, device):
        print(f"{row.name:38} {row.plain:12.3f} {row.ours:12.3f} {row.ratio:7.2f}×  {row.unit}", flush=True)
        rows.append(row)
    content["rows"] = [row._asdict() for row in rows]
    if config.curve_steps:
        processes, dataset = Processes(device), build_dataset(config)
        batches = draw_batches(dataset, config, device)
        content["curves"] = compare_curves(config, dataset, batches, processes)
        print(describe_curves(content["curves"]))
    elif not rows:
        raise ValueError(f"No row starts with {config.rows!r}: README.md lists them.")
    return content


def measure(config: BenchmarkConfig, device: torch.device) -> Iterator[Row]:
    """The rows that the settings choose, each as soon as it is measured."""
    chosen = tuple(filter(None, config.rows.split(",")))
    # Now: a name or file that does not exist should not be found after minutes.
    nets = config.nets.split(",")
    networks = [as_trained(replace(config, net=net, kernel_size=None).resolved()) for net in nets]
    sweeps = config.sweeps or any(name.startswith("sweep") for name in chosen)

    def wanted(*names: str) -> bool:
        """Whether any of these rows, or of those whose names begin like this, is asked for."""
        return not chosen or any(name.startswith(chosen) or _begins(chosen, name) for name in names)

    def only_wanted(rows: Iterator[Row]) -> Iterator[Row]:
        return (row for row in rows if not chosen or row.name.startswith(chosen))

    if wanted(*HEAD):
        yield from head_rows(config, device, wanted)
    if wanted("metrics_8252", "memory_metrics_8252"):
        yield from only_wanted(metrics_rows(8252, config.repeats))
    if wanted(*LOADING):
        yield from loading_rows(config, wanted)
    for network in networks:
        net = network.net
        for kind in ("frame", "batch32"):
            of_frame = [f"moved_{net}"] * (kind == "frame")
            if wanted(f"{kind}_{net}", f"memory_{kind}_{net}", f"limit_{kind}_{net}", *of_frame):
                yield from only_wanted(network_rows(network, device, kind))
        if sweeps and wanted(f"sweep_batch_{net}"):
            yield from only_wanted(sweep_batch(network, device))
    if sweeps and wanted("sweep_workers"):
        yield from only_wanted(sweep_workers(config))
    if sweeps and wanted("sweep_metrics", "sweep_index"):
        yield from only_wanted(sweep_frames(config))
    # Last: from here on the process keeps its memory, which would make the other rows faster.
    for network in networks:
        if wanted(f"train_{network.net}", f"memory_train_{network.net}"):
            yield from only_wanted(train_rows(network, device))


def _begins(chosen: tuple[str, ...], name: str) -> bool:
    return any(choice.startswith(name) for choice in chosen)


def train_rows(config: BenchmarkConfig, device: torch.device) -> Iterator[Row]:
    """The training step on frames of the settings' split."""
    dataset = build_dataset(config)
    return compare_training(config, dataset, draw_batches(dataset, config, device), Processes(device))


if __name__ == "__main__":
    run(main, __doc__.splitlines()[0], BenchmarkConfig)
