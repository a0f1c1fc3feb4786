"""A GPU gives the processor's numbers, in every precision. Skipped where there is none."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from config import Config
from dataloader.dataset import build_dataset
from tests.helpers.project import PROJECT, output_of
from tests.helpers.small_training import BY_HEART, learn_by_heart, start
from tests.helpers.sphere_hands import write_sphere_hands
from util.benchmark import Benchmark, BenchmarkConfig
from util.checkpoint import load_or_init_network
from util.deployment.backends import load_backend
from util.device import usable_precision
from util.inference.predictor import HandPosePredictor
from util.training.distributed import Processes
from util.training.engine import make_loader, predict_frames, to_device, train_step

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

GPU, CPU = torch.device("cuda"), torch.device("cpu")
FRAMES = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    data_dir = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_sphere_hands(data_dir / "synth", split, FRAMES)
    settings = Config(data_dir=str(data_dir), split="train", net="hourglass_1", img_size=32, num_workers=0)
    return replace(settings, batch_size=FRAMES, max_epoch=10, step=100, output_dir="unused").resolved()


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in fp32 proper, not the 10 bits of PyTorch's default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_are_those_of_the_processor(config, exact, compiled):
    dataset = build_dataset(config)
    batch = default_collate([dataset[i] for i in range(FRAMES)])
    losses = []
    for device, compile in ((CPU, False), (GPU, compiled)):
        state, sample = start(config, Processes(device), compile=compile), to_device(batch, device)
        losses.append([train_step(state, sample, dataset, 1e-3) for _ in range(2)])
    expected, found = losses
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    # Adam's first step is as long for the smallest gradients, which are rounding, as for the largest.
    assert found[1] == pytest.approx(expected[1], rel=0.05)


@pytest.mark.parametrize(
    ("precision", "compiled"), [("fp32", False), ("bf16", False), ("bf16", True), ("fp16", False)]
)
def test_learns_16_frames_by_heart(config, precision, compiled):
    dataset = build_dataset(config)
    if usable_precision(GPU, precision) != precision:
        pytest.skip(f"this GPU gains nothing by {precision}")
    batch = to_device(default_collate([dataset[i] for i in range(FRAMES)]), GPU)
    state = start(config, Processes(GPU), precision=precision, compile=compiled, **BY_HEART)
    assert state.scaler.is_enabled() == (precision == "fp16")
    learn_by_heart(state, batch, dataset, steps=240)


@pytest.mark.parametrize(("precision", "most_mm"), [("fp32", 0.1), ("bf16", 0.4), ("fp16", 0.1)])
def test_shipped_weights_give_the_processors_joints(precision, most_mm):
    config = Config(net="resnet_18", num_workers=0).resolved()
    dataset = build_dataset(config)
    network, spec = load_or_init_network(config)
    joints = []
    for device, kind in ((CPU, "fp32"), (GPU, precision)):
        backend = load_backend(network, spec, "torch", kind, device)
        loader = make_loader(dataset, 16, 0, device, range(32))
        joint_uvd = predict_frames(lambda image, run=backend: run(image)[0], loader, device, kind)
        joints.append(dataset.camera.uvd_to_xyz(joint_uvd))
    moved = np.linalg.norm(joints[1] - joints[0], axis=-1)
    print(f"{precision}: joints move by {moved.mean():.4f} mm in the mean, {moved.max():.3f} at most")
    assert moved.mean() < most_mm


def test_predictor_finds_the_processors_hand():
    dataset = build_dataset(Config(num_workers=0).resolved())
    depth, camera = dataset.index.read_depth(dataset.index.frame_path(0)), dataset.camera
    path = PROJECT / "results/resnet_18_synth.pth"
    poses = [HandPosePredictor(path, device).predict(depth, camera) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(poses[1].joints_xyz, poses[0].joints_xyz, atol=1.0)
    np.testing.assert_allclose(poses[1].confidence, poses[0].confidence, atol=0.02)


def test_trains_and_goes_on(config, tmp_path):
    """The first epoch by torchrun with nccl, the second without and compiled, from where the first ended."""
    command = ["train.py", "--dataset", "synth", "--data_dir", config.data_dir, "--net", "hourglass_1"]
    command += ["--img_size", "32", "--batch_size", "4", "--num_workers", "1", "--precision", "fp16"]
    command += ["--output_dir", str(tmp_path), "--device", "cuda", "--ema", "0.9", "--clip_grad", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--standalone"]
    for begin, rest in (
        (torchrun, ["--max_epoch", "1"]),
        ([sys.executable], ["--max_epoch", "2", "--resume", "--compile"]),
    ):
        assert "cuda" in output_of(*begin, *command, *rest, cwd=PROJECT)
    assert torch.load(tmp_path / "last.pth", weights_only=True, map_location="cpu")["epoch"] == 2


def test_the_benchmark_measures_a_gpu():
    rows = ("train", "frame_hourglass_1_torch_fp32")
    config = BenchmarkConfig(rows, ("hourglass_1",), repeats=3, batch_size=16).resolved()
    found = {row.name: row for row in Benchmark(config, "hourglass_1").rows()}
    assert set(found) == {"train_hourglass_1", "frame_hourglass_1_torch_fp32"}
    assert all(row.plain > 0 and row.ours > 0 for row in found.values())
