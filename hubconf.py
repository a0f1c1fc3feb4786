"""For torch.hub: `torch.hub.load(FOLDER_OR_REPOSITORY, "hand_pose", source="local")`."""

from typing import Any

from config import Config
from util import UserError
from util.checkpoint import shipped_weights
from util.inference.predictor import HandPosePredictor

dependencies = ["torch", "torchvision", "numpy", "scipy", "cv2", "matplotlib", "tqdm"]


def hand_pose(net: str = "resnet_18", **settings: Any) -> HandPosePredictor:
    """A predictor with the weights that come with the project; `settings` as of HandPosePredictor.

    `net`: resnet_18 or hourglass_1.
    """
    path = shipped_weights(Config(net=net).resolved())
    if not path:
        raise UserError(f"No weights of {net} come with the project: use resnet_18 or hourglass_1.")
    return HandPosePredictor(path, **settings)
