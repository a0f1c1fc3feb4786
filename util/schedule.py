"""What changes while training goes on, as pure functions of the epoch: nothing here needs saving."""

from math import cos, pi

from config import Config


def learning_rate(config: Config, epoch: float) -> float:
    """The rate after `epoch` epochs, fractions included (SPEC §9).

    Rises linearly over `warmup_epochs`; falls to a tenth every `step` epochs, or along half a
    cosine to 0 at `max_epoch`.
    """
    if epoch < config.warmup_epochs:
        # The first step is at fraction 0: a rate of 0 would waste it.
        return config.lr * max(epoch / config.warmup_epochs, 1e-2)
    if config.scheduler == "step":
        return config.lr * 0.1 ** (int(epoch) // config.step)
    share = (epoch - config.warmup_epochs) / max(config.max_epoch - config.warmup_epochs, 1e-9)
    return config.lr * (1 + cos(pi * min(share, 1.0))) / 2


def loss_weights(config: Config, epoch: int) -> tuple[float, float]:
    """Weights of the dense and the joint term: the dense one alone for the first `dense_epochs` (SPEC §7)."""
    return config.dense_weight, 0.0 if epoch < config.dense_epochs else config.coord_weight
