"""Hand shapes in a file: hands can be drawn from it at once, without the package that made them.

A shape is told by its rest mesh and joints. The file holds their mean and principal components over all
people, and each person's coefficients: 0.03 mm from the shapes themselves on average.

mean (3P,), components (K, 3P), people (N, K): of P = V + 25 points, mm. faces (F, 3), weights (V, 21).
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from dataloader.synthetic.hand.shape import boundary_loop, finish_shape
from dataloader.synthetic.hand.skeleton import HandShape
from util import UserError
from util.files import atomic_write, require_file

BUNDLED = Path(__file__).with_name("bank.npz")
_COMPONENTS = 60
_NEIGHBORS = 8  # a drawn hand lies between a person and one of so many who are most alike
# Of every ten people: whose hands a split draws from. Only val and val_hard share some.
_SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10), "val_hard": range(8, 9)}


class Shapes(Protocol):
    """Where hands come from: a `HandBank`, or `shape.HandModel`."""

    def sample_shape(self, rng: np.random.Generator) -> HandShape:
        """Draw an adult's right hand."""


class HandBank:
    """The people of one split in a bank.

    Args:
        path: the file.
        split: train, val, test or val_hard, whose people are val's.

    Raises:
        FileNotFoundError, UserError: if the file is missing or no bank, or has nobody for the split.
    """

    def __init__(self, path: Path, split: str):
        require_file(path, "a bank of hand shapes; `python -m dataloader.synthetic --make_bank` makes one")
        try:
            with np.load(path) as file:
                self._mean, self._components, people = (
                    file[name].astype(np.float64) for name in ("mean", "components", "people")
                )
                self._faces = file["faces"].astype(np.int32)
                self._weights = file["weights"].astype(np.float64)
        except Exception as error:  # a damaged archive can fail in many ways
            raise UserError(f"{path} is no bank of hand shapes, or damaged.") from error
        self._loop = boundary_loop(self._faces)
        self._weights /= self._weights.sum(1, keepdims=True)
        self._people = people[np.isin(np.arange(len(people)) % 10, _SHARES[split])]
        if len(self._people) < 2:
            raise UserError(f"{path} has {len(people)} people: too few for a split {split}, make 20 or more.")

    def sample_shape(self, rng: np.random.Generator) -> HandShape:
        """Draw a hand between one person's and that of somebody alike."""
        one = self._people[rng.integers(len(self._people))]
        alike = np.argsort(np.square(self._people - one).sum(axis=1))[1 : 1 + _NEIGHBORS]
        other = self._people[rng.choice(alike)]
        share = rng.uniform(0, 0.5)
        points = self._mean + (one + share * (other - one)) @ self._components
        vertices, joints = np.split(points.reshape(-1, 3), [len(self._weights)])
        return finish_shape(vertices, joints.reshape(5, 5, 3), self._faces, self._weights, self._loop)


def write_bank(path: Path, shapes: Shapes, people: int, seed: int) -> None:
    """Draw people, and write them as a bank.

    Args:
        path: an .npz to write.
        shapes: where they are drawn from; all have the same faces and weights.
        people: how many.
        seed: of the draws.
    """
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
