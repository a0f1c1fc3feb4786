"""Train, resume or fine-tune a network; in one process, or in many started by torchrun."""

from config import Config, DataSettings, NetworkSettings, TrainingSettings
from util.cli import run

GROUPS = (DataSettings, NetworkSettings, TrainingSettings)


def main(config: Config) -> None:
    """Train to the settings' last epoch."""
    # Here, so that --help does not wait for PyTorch.
    from util.device import pick_device
    from util.training.distributed import init_distributed
    from util.training.trainer import train

    with init_distributed(pick_device(config.device)) as processes:
        state = train(config, processes)
        best = f"{config.output_dir}/best.pth"
        processes.print(f"{best} has {state.best_mpe_mm:.3f} mm on {state.config.val_split}.")
        processes.print(f"`python test.py --load_model {best}` scores it on test.")


if __name__ == "__main__":
    run(main, __doc__, Config, GROUPS)
