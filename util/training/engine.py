"""Running a network over a data set, to train it or to predict: free functions."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import Config
from dataloader.dataset import HandDataset, Sample, init_worker
from model.awr import dense_to_joints
from util import UserError
from util.camera import Camera, crop_to_uvd
from util.device import autocast
from util.metrics import Metrics, score
from util.training.sampler import ShuffledBatches
from util.training.state import TrainingState

# A step's numbers by name, means over the processes: `loss`, its terms before weighting, and `mpe_mm`.
StepMeans = dict[str, float]


def make_loader(
    dataset: HandDataset,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    frames: Sequence[int] | None = None,
) -> DataLoader:
    """Batches in the data set's order, of all or some `frames`, prepared while the network runs."""
    frames = range(len(dataset)) if frames is None else frames
    workers = min(num_workers, -(-len(frames) // batch_size))
    return DataLoader(dataset, batch_size, sampler=frames, **_options(workers, device))


def make_training_loader(
    dataset: HandDataset, batches: ShuffledBatches, num_workers: int, device: torch.device
) -> DataLoader:
    """Shuffled batches; the processes that prepare them outlive the epochs."""
    options = _options(num_workers, device)
    return DataLoader(dataset, batch_sampler=batches, persistent_workers=num_workers > 0, **options)


def _options(workers: int, device: torch.device) -> dict[str, Any]:
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": init_worker}


def learning_rate(config: Config, epoch: float, cuts: int = 0) -> float:
    """The rate after `epoch` epochs, fractions included (docs/spec.md §9): rises linearly over
    `warmup_epochs`; falls to a tenth every `step` epochs, along half a cosine to 0 at `max_epoch`, or at
    each of `cuts`."""
    if epoch < config.warmup_epochs:
        # The first step is at fraction 0: a rate of 0 would waste it.
        return config.lr * max(epoch / config.warmup_epochs, 1e-2)
    if config.scheduler == "step":
        return config.lr * 0.1 ** (int(epoch) // config.step)
    if config.scheduler == "plateau":
        return config.lr * 0.1**cuts
    share = (epoch - config.warmup_epochs) / max(config.max_epoch - config.warmup_epochs, 1e-9)
    return config.lr * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def loss_weights(config: Config, epoch: int) -> dict[str, float]:
    """The weight of each term of the loss; the first `dense_epochs` have only the dense one."""
    coord_weight = config.coord_weight if epoch >= config.dense_epochs else 0.0
    return {"dense": config.dense_weight, "coord": coord_weight}


def train_one_epoch(
    state: TrainingState, loader: DataLoader, after_step: Callable[[StepMeans], None]
) -> None:
    """Train from where the state stands to the end of its epoch; `loader` is of `make_training_loader`.

    After each step it calls `after_step`; what that raises ends the epoch. A loss or gradient that is not
    finite raises UserError, naming the frames; the weights stay as before it.
    """
    batches: ShuffledBatches = loader.batch_sampler
    first = state.frames // batches.frames_a_step
    batches.select(state.epoch, first)
    loader.dataset.set_epoch(state.epoch)
    state.network.train()
    for step, batch in enumerate(loader, first):
        rate = learning_rate(state.config, state.epoch + step / batches.num_steps, state.cuts)
        batch, frames = to_device(batch, state.processes.device), batches.batch(step)
        means = train_step(state, batch, loader.dataset, rate, frames)
        if means is None:
            raise UserError(_describe_failure(state, loader.dataset, frames, rate))
        state.frames = (step + 1) * batches.frames_a_step
        after_step(means)


def train_step(
    state: TrainingState, sample: Sample, dataset: HandDataset, rate: float, frames: Sequence[int] = ()
) -> StepMeans | None:
    """One step of the optimizer at a learning rate; None, and no change, where something is not finite.

    `frames` of the data set are the sample's; they count where each has a camera of its own.
    """
    loss = state.forward(sample.image, sample.joint_uvd)
    total = loss.total(loss_weights(state.config, state.epoch))
    state.optimizer.zero_grad()
    state.scaler.scale(total).backward()
    state.scaler.unscale_(state.optimizer)
    trained = [weight for weight in state.network.parameters() if weight.grad is not None]
    norm = get_total_norm([weight.grad for weight in trained])

    camera = dataset.cameras(frames, sample.image.device)
    error = mean_error_mm(loss.joint_uvd.detach(), sample, camera, dataset.img_size)
    # All numbers of the step in one exchange: waiting for the device, and for the others, once.
    numbers = {"loss": total, **loss.terms, "mpe_mm": error}
    stacked = torch.stack([*numbers.values(), norm]).detach()
    *values, norm_value = state.processes.mean(stacked).tolist()
    # An infinite gradient in fp16 is the scaler's business: it skips the step and scales less.
    if not math.isfinite(sum(values)) or not (math.isfinite(norm_value) or state.scaler.is_enabled()):
        return None

    if state.config.clip_grad:
        clip_grads_with_norm_(trained, state.config.clip_grad, norm)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.averaged is not None:
        state.averaged.update_parameters(state.network)
    state.step += 1
    means = dict(zip(numbers, values, strict=True))
    state.running.update({"steps": 1, **means})
    return means


def _describe_failure(state: TrainingState, dataset: HandDataset, frames: list[int], rate: float) -> str:
    """One sentence with all processes' frames of the failed step: the same in each of them."""
    frames = [i for shard in state.processes.gather(frames) for i in shard]
    paths = [dataset.index.frame_path(i) for i in frames]
    folder = os.path.commonpath([path.parent for path in paths])
    names = ", ".join(path.relative_to(folder).as_posix() for path in paths)
    what = f"loss or gradient is not finite for a batch of frames in {folder}: {names}"
    where = f"step {state.step + 1} of epoch {state.epoch + 1}"
    return f"Training diverged at {where}: {what}; try a lower lr (here {rate:g}), clip_grad, or fp32."


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Copy a batch, without waiting where it lies in pinned memory."""
    return Sample(*(tensor.to(device, non_blocking=True) for tensor in batch))


@torch.no_grad()
def mean_error_mm(joint_uvd: Tensor, sample: Sample, camera: Camera, img_size: int) -> Tensor:
    """Mean distance, mm, of (B, J, 3) normalised uvd from a batch's true joints."""
    uvd = crop_to_uvd(joint_uvd, sample.center_xyz[:, 2], sample.cube[:, 2], sample.M, img_size)
    true_xyz = sample.joint_xyz * (sample.cube[:, None] / 2) + sample.center_xyz[:, None]
    return (camera.uvd_to_xyz(uvd) - true_xyz).norm(dim=-1).mean()


def recalibrate_batch_norm(state: TrainingState, loader: DataLoader) -> None:
    """Make batch-norm statistics ready for scoring: those of averaged weights, which have seen no batch, are
    measured on the epoch's first `bn_batches`; several processes then share the mean of theirs."""
    device = state.processes.device
    if state.averaged is not None and state.config.bn_batches:
        loader.batch_sampler.select(state.epoch, stop=state.config.bn_batches)
        with autocast(device, state.config.precision):
            update_bn(loader, state.scored, device)
    for network in dict.fromkeys((state.network, state.scored)):  # one or two, in this order
        state.processes.average_buffers(network)


class Evaluation(NamedTuple):
    """`joint_uvd` (N, J, 3) full-frame uvd, pixels and mm; and their scores."""

    joint_uvd: np.ndarray
    metrics: Metrics


def evaluate(state: TrainingState, dataset: HandDataset) -> Evaluation:
    """Score the state's network on every frame of a data set, each once, shared between the processes."""
    config, processes, network = state.config, state.processes, state.scored
    network.eval()

    def predict(image: Tensor) -> Tensor:
        with autocast(processes.device, config.precision):
            dense = network(image)[-1]
        return dense_to_joints(dense, image, state.spec.kernel_size)

    frames = range(processes.rank, len(dataset), processes.world_size)
    joint_uvd = np.empty(dataset.index.joint_xyz.shape)
    shard = joint_uvd[frames]  # of more processes than frames, some have none
    if len(frames):
        loader = make_loader(dataset, config.batch_size, config.num_workers, processes.device, frames)
        shard = predict_frames(predict, loader, processes.device, config.precision, processes.is_main)
    for rank, part in enumerate(processes.gather(shard)):
        joint_uvd[rank :: processes.world_size] = part
    return Evaluation(joint_uvd, score(dataset.camera.uvd_to_xyz(joint_uvd), dataset.index.joint_xyz))


@torch.inference_mode()
def predict_frames(
    predict: Callable[[Tensor], Tensor],
    loader: DataLoader,
    device: torch.device,
    precision: str = "fp32",
    show_bar: bool = True,
) -> np.ndarray:
    """Joints of every frame of a loader, in its order (docs/spec.md §6, §10).

    Args:
        predict: (B, 1, S, S) normalised crops on `device` -> joints (B, J, 3) normalised uvd.
        loader: batches of a HandDataset.
        precision: for the sentence that names the first frame whose joints are not finite.

    Returns:
        (N, J, 3) float64 full-frame uvd: pixels and mm.
    """
    batches = []
    for batch in tqdm(loader, desc="frames", unit="batch", leave=False, disable=not show_bar):
        sample, size = to_device(batch, device), loader.dataset.img_size
        joint_uvd = predict(sample.image)
        batches.append(crop_to_uvd(joint_uvd, sample.center_xyz[:, 2], sample.cube[:, 2], sample.M, size))
    frames, data = list(loader.sampler), loader.dataset
    joint_uvd = torch.cat(batches).cpu().double().numpy()  # a Mac's GPU has no float64
    finite = np.isfinite(joint_uvd).all((1, 2))
    if not finite.all():
        name = data.index.frame_path(frames[int(np.argmin(finite))])
        causes = f"{precision} overflows, or the weights are damaged, as by too high an lr"
        raise UserError(f"The network's joints for {name} are not finite: {causes}.")
    return data.index.mirror_left(joint_uvd, frames, data.frame_size[1])
