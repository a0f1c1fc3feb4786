"""Draw hands from the package anny: a bank of people, or a split of frames.

python results/make_bank.py --out bank.npz --people 400 --seed 0
python results/make_bank.py --out data/synth --split test --frames 400 --seed 0 --without all

The second is how the bundled test split was made, and the frames that the shipped weights were trained with.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from dataloader.synthetic.command import SyntheticSettings, write_frames
from dataloader.synthetic.hand.bank import Shapes
from dataloader.synthetic.hand.shape import boundary_loop, finish_shape, hand_length
from dataloader.synthetic.hand.skeleton import NUM_BONES, HandShape, blend, unit
from util import UserError
from util.cli import run
from util.files import atomic_write

_COMPONENTS = 60
# anny's names; its thumb has no fixed metacarpal, so the wrist stands in for it.
_CHAINS = tuple(
    ("wrist.R" if finger == 0 else f"metacarpal{finger}.R", *(f"finger{finger + 1}-{i}.R" for i in (1, 2, 3)))
    for finger in range(5)
)
_LOCAL_CHANGES = (
    "r-hand-fingers-diameter-incr",
    "r-hand-fingers-distance-incr",
    "r-hand-fingers-length-incr",
    "measure-wrist-circ-incr",
)
# Mean length of each finger bone, and the hand's breadth and thickness, relative to anny's: its little finger
# is short and its palm narrow beside measured hands (NYU's two test subjects; Buryanov & Kotiuk 2010).
_BONE_LENGTH = np.array(
    [[1.15, 1.0, 1.0], [0.98, 1.01, 1.01], [1.0, 1.04, 1.04], [0.97, 0.99, 0.99], [1.06, 1.17, 1.17]]
)
# anny turns the thumb about a point well up its metacarpal; the joint is at the wrist, so much further back.
_THUMB_PIVOT = 1.3
_BREADTH, _THICKNESS = 1.06, 1.04


@dataclass
class BankSettings(SyntheticSettings):
    """Settings of this command: of `python -m dataloader.synthetic`, and the number of people in a bank."""

    people: int = 0  # draw so many and write them to --out, a bank (.npz); 0: write frames of the split

    def resolved(self) -> "BankSettings":
        """Check the settings."""
        super().resolved()
        if self.people and (self.people < 20 or self.out.suffix != ".npz" or self.out.exists()):
            raise UserError("A bank has 20 people or more, and --out is a new file that ends with .npz.")
        return self


def main(settings: BankSettings) -> None:
    """Write the bank, or the split."""
    if not settings.people:
        write_frames(settings, HandModel)
        return
    write_bank(settings.out, HandModel(), settings.people, settings.seed)
    print(f"{settings.people} people, {settings.out.stat().st_size / 1e6:.2f} MB, in {settings.out}")


def write_bank(path: Path, shapes: Shapes, people: int, seed: int) -> None:
    """Draw people whose hands have the same faces and weights, and write them as a bank, an .npz."""
    drawn = [shapes.sample_shape(np.random.default_rng([seed, person])) for person in range(people)]
    points = np.stack([np.concatenate([each.vertices.ravel(), each.joints.ravel()]) for each in drawn])
    mean = points.mean(axis=0)
    # Of the smaller of the two matrices that share their eigenvalues.
    _, vectors = np.linalg.eigh((points - mean) @ (points - mean).T)
    basis = np.linalg.qr((vectors[:, ::-1][:, :_COMPONENTS].T @ (points - mean)).T)[0].T
    arrays = {"mean": mean, "components": basis, "people": (points - mean) @ basis.T}
    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    arrays |= {"mean": mean.astype(np.float32), "faces": drawn[0].faces.astype(np.uint16)}
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays, weights=drawn[0].weights.astype(np.float16))


class HandModel:
    """anny's right hand. Building it reads anny's cache; the first time on a machine makes it (minutes)."""

    def __init__(self) -> None:
        try:
            import anny
            from anny.paths import get_anny_cache_path
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is missing: pip install -r requirements-anny.txt.") from error

        torch.set_num_threads(1)  # more may round differently
        cache = get_anny_cache_path()
        if not cache.exists():
            print(f"building anny's cache in {cache}, once on this machine: about two minutes", flush=True)
        self._model = anny.Anny(
            rig="anny-hand.R",
            topology="hand.R",
            local_changes=list(_LOCAL_CHANGES),
            phenotypes="all",
            skinning_method="lbs",
        )
        # The hand frame mirrors anny's; so must the order of a face's corners, to keep its normal outward.
        self._faces = self._model.faces.numpy()[:, ::-1].astype(np.int32)
        labels = list(self._model.bone_labels)
        self._heads = np.array([[labels.index(name) for name in chain] for chain in _CHAINS])
        self._weights = self._load_weights(labels)
        self._loop = boundary_loop(self._faces)

    def _load_weights(self, labels: list[str]) -> np.ndarray:
        """Skinning weights (V, 21) with the bones in this module's order; what is no finger is palm."""
        indices = self._model.vertex_bone_indices.numpy()
        dense = np.zeros((len(indices), len(labels)))
        np.add.at(dense, (np.arange(len(indices))[:, None], indices), self._model.vertex_bone_weights.numpy())
        weights = np.zeros((len(indices), NUM_BONES))
        for finger, chain in enumerate(_CHAINS):
            for i, name in enumerate(chain):
                if name != "wrist.R":
                    weights[:, 1 + 4 * finger + i] = dense[:, labels.index(name)]
        weights[:, 0] = np.maximum(1 - weights.sum(1), 0)
        return weights / weights.sum(1, keepdims=True)

    def sample_shape(self, rng: np.random.Generator) -> HandShape:
        """Draw an adult's hand: anny's shape parameters, then each finger's length and thickness beyond."""
        vertices, heads = self._rest_mesh(rng)
        vertices, heads = _to_hand_frame(vertices, heads, self._heads)
        # The wrist-to-tip distance of adults here, including the centimetre from crease to wrist joint.
        target = np.clip(rng.normal(198, 14), 163, 230)
        across = np.array([rng.normal(_BREADTH, 0.045), 1.0, rng.normal(_THICKNESS, 0.06)])
        chains = heads[self._heads]
        chains[0, 1] = chains[0, 2] + _THUMB_PIVOT * (chains[0, 1] - chains[0, 2])
        ends = np.stack([_finger_end(vertices, self._weights, chains, finger) for finger in range(5)])
        joints = np.concatenate([chains, ends[:, None]], 1)
        scale = across * target / hand_length(joints)
        length_factor = _BONE_LENGTH * rng.normal(1, 0.035, (5, 1)) * rng.normal(1, 0.025, (5, 3))
        thickness = rng.normal(1.02, 0.05) * rng.normal(1, 0.035, (5, 1)) * np.ones((5, 3))
        vertices, joints = _reshape_fingers(
            vertices * scale, joints * scale, self._weights, length_factor, thickness
        )
        return finish_shape(vertices, joints, self._faces, self._weights, self._loop)

    def _rest_mesh(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """anny's rest vertices (V, 3) and bone heads (B, 3) in metres for drawn shape parameters."""
        low, high = 0.15, 0.85
        shape = {
            name: rng.uniform(low, high) for name in ("gender", "muscle", "weight", "height", "proportions")
        }
        shape["gender"] = rng.uniform(0, 1)
        shape["age"] = rng.uniform(0.6, 0.95)  # young to old adult on anny's scale
        shape |= dict(zip(("african", "asian", "caucasian"), rng.dirichlet([0.7] * 3), strict=True))
        changes = {name: rng.uniform(-0.6, 0.6) for name in _LOCAL_CHANGES}
        out = self._model(phenotype_kwargs=shape, local_changes_kwargs=changes)
        return out["rest_vertices"][0].numpy(), out["rest_bone_heads"][0].numpy()


def _to_hand_frame(
    vertices: np.ndarray, heads: np.ndarray, chains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """anny's right-handed metres -> the left-handed hand frame in mm; the sign turns at the dorsal axis."""
    wrist = heads[chains[0, 0]]
    distal = unit(heads[chains[2, 1]] - wrist)
    across = heads[chains[1, 1]] - heads[chains[4, 1]]
    radial = unit(across - across @ distal * distal)
    palmar = np.cross(radial, distal)
    basis = 1000 * np.stack([radial, distal, -palmar], 1)
    return (vertices - wrist) @ basis, (heads - wrist) @ basis


def _finger_end(vertices: np.ndarray, weights: np.ndarray, chains: np.ndarray, finger: int) -> np.ndarray:
    """The end of a finger (3,): how far along the axis of its last bone the mesh reaches."""
    own = vertices[weights[:, 4 + 4 * finger] > 0.6]
    head = chains[finger, 3]
    direction = unit(own.mean(0) - head)
    return head + direction * ((own - head) @ direction).max()


def _reshape_fingers(
    vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, lengths: np.ndarray, thickness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Stretch each finger bone along itself and across, skinned like a pose so that no seam opens.

    Args:
        vertices: (V, 3). joints: (5, 5, 3). weights: (V, 21).
        lengths, thickness: (5, 3) factors of the three finger bones.
    """
    linear = np.tile(np.eye(3), (NUM_BONES, 1, 1))
    offset = np.zeros((NUM_BONES, 3))
    moved = joints.copy()
    for finger in range(5):
        for i in range(1, 4):
            bone = 1 + 4 * finger + i
            along = unit(joints[finger, i + 1] - joints[finger, i])
            # The thumb's metacarpal lies in the flesh of the palm: longer, not thicker.
            across = 1.0 if finger == 0 and i == 1 else thickness[finger, i - 1]
            linear[bone] = across * np.eye(3) + (lengths[finger, i - 1] - across) * np.outer(along, along)
            offset[bone] = moved[finger, i] - linear[bone] @ joints[finger, i]
            moved[finger, i + 1] = linear[bone] @ joints[finger, i + 1] + offset[bone]
    return blend(vertices, weights, linear, offset), moved


if __name__ == "__main__":
    run(main, __doc__, BankSettings)
