"""Train, resume or fine-tune a network; in one process, or in many started by torchrun."""

from config import Config
from util.cli import run
from util.device import pick_device
from util.distributed import joined_processes
from util.training import train


def main(config: Config) -> None:
    """Train to the settings' last epoch."""
    with joined_processes(pick_device(config.device)) as processes:
        train(config, processes)
        processes.print(f"Written to {config.output_dir}/")


if __name__ == "__main__":
    run(main, __doc__)
