"""Two processes on gloo against one that averages the two shards' gradients."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from config import Config
from dataloader.dataset import build_dataset
from model.loss import awr_loss
from tests.helpers.processes import read_log
from tests.helpers.project import PROJECT, output_of
from tests.helpers.sphere_hands import write_sphere_hands
from util.checkpoint import init_network, load_network, spec_from_config
from util.training.distributed import Processes, init_distributed
from util.training.engine import evaluate
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState

VALIDATION_FRAMES = 101
STEPS = 3
CPU = Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    """13 frames for two processes of 2 frames a step: 3 steps, and one frame left over."""
    data_dir = tmp_path_factory.mktemp("data")
    write_sphere_hands(data_dir / "synth", "train", 13, seed=2)
    write_sphere_hands(data_dir / "synth", "val", VALIDATION_FRAMES, seed=3)
    sizes = {"img_size": 32, "batch_size": 2, "num_workers": 0, "max_epoch": 1, "bn_batches": 2}
    folders = {"data_dir": str(data_dir), "output_dir": str(tmp_path_factory.mktemp("together"))}
    return Config(net="hourglass_1", clip_grad=0.5, ema=0.9, log_every=1, **sizes, **folders).resolved()


@pytest.fixture(scope="module")
def together(config) -> Path:
    """The folder of a run of two processes."""
    names = "data_dir net img_size batch_size num_workers max_epoch clip_grad ema bn_batches log_every"
    values = {name: str(getattr(config, name)) for name in (*names.split(), "output_dir")}
    flags = [text for name, value in values.items() for text in (f"--{name}", value)]
    flags += ["--device", "cpu"]  # also where there are GPUs, which do not repeat sums exactly
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command.append(PROJECT / "tests" / "helpers" / "train_together.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    said = output_of(*command, *flags, cwd=PROJECT, env=environment)
    assert said.count("Written") + said.count("epoch 1/1") == 1  # one of the two prints
    return Path(config.output_dir)


def one_process(config: Config) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Parameters and losses after the same steps, each shard through the network by itself."""
    dataset = build_dataset(replace(config, split="train"), augment=True)
    # The same layout, Adam and thread: with few values a channel, batch norm magnifies rounding.
    network = init_network(config).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, fused=True)
    shards = [ShuffledBatches(len(dataset), config.batch_size, config.seed, rank, 2) for rank in range(2)]
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for shard in shards:
            image, _, joint_uvd, *_ = default_collate([dataset[i] for i in shard.batch(step)])
            loss = awr_loss(network(image), image, joint_uvd, config.kernel_size)
            loss = loss.total({"dense": 1, "coord": 1}) / 2
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad)
        optimizer.step()
    return dict(network.named_parameters()), np.reshape(losses, (STEPS, 2)).sum(1).tolist()


@pytest.mark.slow
def test_equals_one_process_that_averages_gradients(config, together):
    first, second = (torch.load(together / f"network_{rank}.pth", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[key], value) for key, value in second.items())  # statistics too
    expected, losses = one_process(config)
    assert [line["loss"] for line in read_log(together) if "loss" in line] == pytest.approx(losses, rel=1e-4)
    for key, value in expected.items():
        assert (first[key] - value).abs().max() < 0.01 * config.lr, key


def test_what_a_cluster_says_of_its_own_jobs_starts_no_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    with init_distributed(CPU.device) as processes:
        assert processes == CPU


@pytest.mark.slow
def test_every_validation_frame_counts_once(config, together):
    (line,) = (line for line in read_log(together) if "val_mpe_mm" in line)
    assert line["val_frames"] == VALIDATION_FRAMES
    network, spec = load_network(together / "last.pth", spec_from_config(config))
    alone = evaluate(TrainingState(network, spec, config, CPU), build_dataset(replace(config, split="val")))
    assert line["val_mpe_mm"] == pytest.approx(alone.metrics.mpe_mm, rel=1e-5)
    assert line["val_auc"] == pytest.approx(alone.metrics.auc, rel=1e-4)


@pytest.mark.parametrize(("frames", "batch_size", "world_size"), [(13, 2, 2), (101, 8, 3), (5, 32, 2)])
def test_shards_are_disjoint_and_equally_long(frames, batch_size, world_size):
    shards = [ShuffledBatches(frames, batch_size, 0, rank, world_size) for rank in range(world_size)]
    assert len({len(shard) for shard in shards}) == 1
    seen = [i for shard in shards for batch in shard for i in batch]
    assert len(set(seen)) == len(seen) == len(shards[0]) * shards[0].frames_a_step
    assert frames - len(seen) < max(batch_size * world_size, world_size)
    # A step has the same frames however many share it.
    alone = ShuffledBatches(frames, shards[0].frames_a_step, 0)
    assert list(alone) == [np.concatenate(step).tolist() for step in zip(*shards, strict=True)]


def test_order_changes_with_epoch_and_seed_and_resumes_in_the_middle():
    def order(seed: int, epoch: int, first: int = 0) -> list[list[int]]:
        batches = ShuffledBatches(20, 4, seed)
        batches.select(epoch, first)
        return list(batches)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)
    assert order(0, 1, first=3) == order(0, 1)[3:]
