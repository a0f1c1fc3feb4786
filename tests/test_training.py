"""One step, one schedule, one batch learnt by heart; runs as a whole are in test_resume.py."""

from copy import copy
from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from config import Config
from dataloader.dataset import HandDataset, Sample, build_dataset
from tests.helpers import small_training
from tests.helpers.refused import refused
from tests.helpers.small_training import BY_HEART, learn_by_heart
from tests.helpers.sphere_hands import write_sphere_hands
from util import UserError
from util.device import pick_device, usable_precision
from util.training.distributed import Processes
from util.training.engine import (
    evaluate,
    learning_rate,
    loss_weights,
    make_training_loader,
    recalibrate_batch_norm,
    train_one_epoch,
    train_step,
)
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState

FRAMES = 16
CPU = Processes(torch.device("cpu"))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    data_dir = tmp_path_factory.mktemp("data")
    write_sphere_hands(data_dir / "synth", "train", FRAMES)
    sizes = {"img_size": 32, "batch_size": FRAMES, "num_workers": 0, "max_epoch": 10, "step": 4}
    return Config(data_dir=str(data_dir), split="train", net="hourglass_1", **sizes).resolved()


@pytest.fixture(scope="module")
def dataset(config) -> HandDataset:
    return build_dataset(config)


@pytest.fixture(scope="module")
def batch(dataset) -> Sample:
    return default_collate([dataset[i] for i in range(FRAMES)])


@pytest.fixture
def step(dataset, batch):
    """Takes a step of a state on the batch's first frames; gives its means."""
    return lambda state, frames=2: train_step(state, Sample(*(a[:frames] for a in batch)), dataset, 1e-3)


def start(config: Config, **changes) -> TrainingState:
    return small_training.start(config, CPU, **changes)


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def test_a_device_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "63")  # each of several processes has a GPU of its own
    with refused("'cuda:63' is not available"):
        pick_device("cuda")
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with refused("'mps' is not available here"):  # auto takes the GPU of a Mac, and this machine is none
        pick_device("auto")


@pytest.mark.slow
def test_learns_16_frames_by_heart(config, dataset, batch):
    """Seeds 0 to 2 take 72 to 120 steps; how many depends on rounding, so the limit is far off."""
    learn_by_heart(start(config, **BY_HEART), batch, dataset, steps=160)


def test_schedules(config):
    rates = [learning_rate(config, epoch) for epoch in (0, 3.99, 4, 8)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    config = replace(config, scheduler="cosine", warmup_epochs=2)
    rates = [learning_rate(config, epoch) for epoch in (1, 2, 6, 10)]
    assert rates == pytest.approx([5e-4, 1e-3, 5e-4, 0])
    assert learning_rate(config, 0) > 0  # the first step is not wasted
    config = replace(config, dense_epochs=2, coord_weight=3.0)
    weights = [loss_weights(config, epoch) for epoch in (0, 1, 2)]
    assert weights == [{"dense": 1, "coord": coord} for coord in (0, 0, 3)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_steps(config, step, precision):
    state = start(config, precision=precision, clip_grad=1.0)
    before = [weight.clone() for weight in state.network.parameters()]
    for _ in range(20):  # fp16's first steps only find the scale
        assert np.isfinite(list(step(state).values())).all()
        if not all(map(torch.equal, before, state.network.parameters())):
            break
    else:
        pytest.fail("no step has changed a weight")
    assert {weight.dtype for weight in state.network.parameters()} == {torch.float32}
    assert state.scaler.is_enabled() == (precision == "fp16")


def test_frozen_parts_keep_their_weights(config, step):
    frozen = ("pre.3", "outs_1")
    state = start(config, freeze=frozen, load_model="any.pth")
    names = [name for name, _ in state.network.named_parameters() if "skip" not in name]
    before = weights_of(state.network)
    step(state)
    kept = {name for name in names if torch.equal(state.network.get_parameter(name), before[name])}
    assert kept == {name for name in names if name.startswith(tuple(f"{part}." for part in frozen))}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (("outs",), "its parts are pre, hgs"),
        (("pre", "hgs", "features", "outs_1", "outs_2"), "freeze leaves no weight to train"),
    ],
)
def test_what_cannot_be_frozen(config, parts, sentence):
    with refused("freeze", sentence):
        start(config, freeze=parts)


def test_bf16_is_taken_where_the_processor_gains_by_it(monkeypatch):
    for vendor, flags, usable in (
        ("GenuineIntel", "avx2 fma", "fp32"),
        ("GenuineIntel", "avx2 avx512_bf16", "fp32"),  # slower than fp32
        ("GenuineIntel", "avx512_bf16 amx_bf16", "bf16"),
        ("AuthenticAMD", "avx2 avx512_bf16", "bf16"),
    ):
        info = {"vendor_id": vendor, "flags": flags}
        monkeypatch.setattr("util.device.cpu_info", lambda info=info: info)
        assert usable_precision(CPU.device, "bf16") == usable
        assert usable_precision(CPU.device, "fp16") == "fp32"


def test_clipping_limits_the_gradient(config, step):
    state = start(config, clip_grad=1e-4)
    step(state)
    gradients = [weight.grad for weight in state.network.parameters() if weight.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-4, rel=1e-3)


def test_a_gradient_that_is_not_finite_changes_nothing(config, dataset, batch):
    state = start(config)
    before = [weight.clone() for weight in state.network.parameters()]
    damaged = batch._replace(joint_uvd=torch.full((FRAMES, 14, 3), torch.nan))
    assert train_step(state, damaged, dataset, 1e-3) is None
    assert all(map(torch.equal, before, state.network.parameters()))
    assert state.step == 0
    assert not state.running


def test_averaged_weights_are_scored_and_measured_anew(config, dataset, step):
    state = start(config, ema=0.5, bn_batches=1, batch_size=8)
    for _ in range(3):
        step(state, frames=4)
    assert state.scored is not state.network
    before = weights_of(state.scored)
    loader = make_training_loader(dataset, ShuffledBatches(FRAMES, 8, seed=0), 0, CPU.device)
    recalibrate_batch_norm(state, loader)
    changed = {key for key, value in weights_of(state.scored).items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed)


def test_what_is_changed_on_resuming_counts_from_there(config, step, tmp_path, capsys):
    state = start(config)
    step(state)
    state.save(tmp_path / "last.pth", log_size=0)
    changed = start(config, seed=1, weight_decay=0.1, precision="fp16", ema=0.9)
    changed.restore(tmp_path / "last.pth")
    assert "weight_decay 0.0, from here on 0.1" in capsys.readouterr().out
    assert [group["weight_decay"] for group in changed.optimizer.param_groups] == [0.1]
    assert changed.scaler.is_enabled()
    # Averaged or not, what would be scored now is what was trained.
    assert_equal(changed.network, state.network)
    assert_equal(changed.scored, state.network)


def test_averaging_goes_on_with_the_memory_that_it_had(config, step, tmp_path):
    state, resumed = start(config, ema=0.9), start(config, ema=0.9, seed=1)
    for _ in range(3):
        step(state)
    state.save(tmp_path / "last.pth", log_size=7)
    assert resumed.restore(tmp_path / "last.pth") == 7
    step(state), step(resumed)
    assert int(resumed.averaged.n_averaged) == 4
    assert_equal(resumed.scored, state.scored)


@pytest.mark.parametrize(("broken", "value"), [("network", torch.nan), ("scored", torch.inf)])
def test_weights_that_are_not_finite_are_not_saved(config, tmp_path, broken, value):
    state, path = start(config, ema=0.9, lr=0.5), tmp_path / "last.pth"
    state.save(path, log_size=0)
    before = path.read_bytes()
    with torch.no_grad():
        list(getattr(state, broken).buffers())[-2].fill_(value)  # a batch norm's variance
    with pytest.raises(UserError, match=r"weights are not finite; .*last.pth is as it was, .* lr than 0.5"):
        state.save(path, log_size=0)
    assert path.read_bytes() == before


def test_unused_skip_convolutions_are_not_trained(config):
    state = start(config)
    trained = {id(weight) for group in state.optimizer.param_groups for weight in group["params"]}
    for name, weight in state.network.named_parameters():
        assert (id(weight) in trained) == weight.requires_grad, name
    state.network(torch.zeros(2, 1, 32, 32))[-1].sum().backward()
    assert all(w.grad is not None for w in state.network.parameters() if w.requires_grad)


def test_float64_is_made_on_the_cpu_alone(config, dataset, batch, monkeypatch):
    """A Mac's GPU has none; here the CPU plays it, and what `cpu` gives is the true CPU's."""
    state, was = start(config), {name: getattr(torch.Tensor, name) for name in ("cpu", "double", "to")}

    class OnCpu(torch.Tensor):
        pass

    def no_float64(tensor, *arguments, to="to", **more):
        made = was[to](tensor, *arguments, **more)
        if made.dtype == torch.float64 and not isinstance(tensor, OnCpu):
            raise TypeError("float64 on a device that has none")  # PyTorch's own words are longer
        return made

    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: was["cpu"](tensor).as_subclass(OnCpu))
    monkeypatch.setattr(torch.Tensor, "to", no_float64)
    monkeypatch.setattr(torch.Tensor, "double", partialmethod(no_float64, to="double"))
    assert train_step(state, batch, dataset, 1e-3) is not None
    assert evaluate(state, dataset).joint_uvd.dtype == np.float64


def test_a_diverged_epoch_names_its_frames(config, dataset, tmp_path):
    # The names are unique in their folders alone, as MSRA's and ICVL's.
    links = [tmp_path / f"P{i % 2}" / f"{i // 2}.png" for i in range(FRAMES)]
    for i, link in enumerate(links):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(dataset.index.frame_path(i))
    dataset = copy(dataset)
    names = np.array([str(link.relative_to(tmp_path)) for link in links], np.bytes_)
    dataset.index = dataset.index._replace(folder=tmp_path, names=names)
    state = start(config, batch_size=2)
    with torch.no_grad():
        next(state.network.parameters()).fill_(torch.nan)
    batches = ShuffledBatches(FRAMES, 2, seed=0)
    loader = make_training_loader(dataset, batches, 0, CPU.device)
    with pytest.raises(ValueError, match=f"not finite for a batch of frames in {tmp_path}: ") as error:
        train_one_epoch(state, loader, lambda means: None)
    assert "a lower lr (here 0.001)" in str(error.value)
    for i in batches.batch(0):
        assert f"P{i % 2}/{i // 2}.png" in str(error.value)
