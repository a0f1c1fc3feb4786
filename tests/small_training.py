"""What tests of training share, on the processor and on a GPU."""

from dataclasses import replace

import pytest

from config import Config
from dataloader.base import HandDataset, Sample
from dataloader.sampler import ShuffledBatches
from util.checkpoint import asked_spec, initial_network
from util.distributed import Processes
from util.engine import evaluate, make_training_loader, settle_batch_norm, train_step
from util.schedule import learning_rate
from util.training_state import TrainingState

BY_HEART = {"coord_weight": 10.0, "step": 100, "warmup_epochs": 5, "ema": 0.5}  # settings that learn fast


def start(config: Config, processes: Processes, **changes) -> TrainingState:
    """A state with initial weights, in training mode."""
    config = replace(config, **changes)
    state = TrainingState(initial_network(config), asked_spec(config), config, processes)
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
            settle_batch_norm(state, loader)
            errors_mm.append(evaluate(state, dataset).metrics.mpe_mm)
            if errors_mm[-1] < 2.0:
                return
    pytest.fail(f"{len(dataset)} frames are not learnt to 2 mm: {errors_mm}")
