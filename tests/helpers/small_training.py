"""What tests of training share, on the processor and on a GPU."""

from dataclasses import replace

import pytest

from config import Config
from dataloader.dataset import HandDataset, Sample
from util.checkpoint import init_network, spec_from_config
from util.training.distributed import Processes
from util.training.engine import (
    evaluate,
    learning_rate,
    make_training_loader,
    recalibrate_batch_norm,
    train_step,
)
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState

BY_HEART = {"coord_weight": 10.0, "step": 100, "warmup_epochs": 5, "ema": 0.5}  # settings that learn fast


def start(config: Config, processes: Processes, **changes) -> TrainingState:
    """A state with initial weights, in training mode."""
    config = replace(config, **changes)
    state = TrainingState(init_network(config), spec_from_config(config), config, processes)
    state.network.train()
    return state


def learn_by_heart(state: TrainingState, batch: Sample, dataset: HandDataset, steps: int) -> None:
    """Train on all of a data set, one batch on the state's device, until its error is below 2 mm."""
    batches = ShuffledBatches(len(dataset), len(dataset), seed=0)
    loader = make_training_loader(dataset, batches, 0, state.processes.device)
    errors_mm = []
    for step in range(steps):
        state.network.train()
        train_step(state, batch, dataset, learning_rate(state.config, step))
        if step >= 55 and step % 8 == 7:
            recalibrate_batch_norm(state, loader)
            errors_mm.append(evaluate(state, dataset).metrics.mpe_mm)
            if errors_mm[-1] < 2.0:
                return
    pytest.fail(f"{len(dataset)} frames are not learnt to 2 mm: {errors_mm}")
