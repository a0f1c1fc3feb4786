"""The 21 joints of a hand by name, and the orders in which data sets list them."""

from typing import Any

from dataloader import DatasetInfo
from util import UserError
from util.camera import CAMERAS

FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def _joints(fingers: tuple[str, ...], parts: str = "MCP PIP DIP tip") -> tuple[str, ...]:
    """Finger by finger, from its root to its tip."""
    return tuple(f"{finger} {part}" for finger in fingers for part in parts.split())


_MANO = ("wrist", *_joints(("index", "middle", "pinky", "ring", "thumb"), "MCP PIP DIP"))
ORDERS = {
    "dexycb": ("wrist", *_joints(FINGERS)),
    "msra": ("wrist", *_joints((*FINGERS[1:], "thumb"))),
    "hands": ("wrist", *_joints(FINGERS, "MCP"), *_joints(FINGERS, "PIP DIP tip")),
    "mano": (*_MANO, *_joints(("index", "middle", "pinky", "ring", "thumb"), "tip")),
    "ho3d": (*_MANO, *_joints(FINGERS, "tip")),
}


def info_of_order(
    order: str, camera: str, edge: float, folders: dict[str, str], source: str, **others: Any
) -> DatasetInfo:
    """The facts of a data set with an order of ORDERS and a camera of CAMERAS; `edge` of its cube, mm."""
    names, (own, frame_size, _) = ORDERS[order], CAMERAS[camera]
    parts = [*(("wrist", *_joints((finger,))) for finger in reversed(FINGERS)), _joints(FINGERS[1:], "MCP")]
    chains = tuple(tuple(map(names.index, part)) for part in parts)
    return DatasetInfo(names, chains, own, frame_size, (edge, edge, edge), folders, source, **others)


def columns_of(order: str, names: tuple[str, ...]) -> list[int]:
    """Where an order of ORDERS has the joints `names`; an empty one has them as they are."""
    if order not in ("", *ORDERS):
        raise UserError(f"There is no order of joints {order!r}: use one of {', '.join(ORDERS)}.")
    own = ORDERS.get(order, names)
    if set(own) != set(names):
        raise UserError(f"The order {order} is of 21 joints, not of the data set's {len(names)}.")
    return [own.index(name) for name in names]
