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
from util.files import require_file

BUNDLED = Path(__file__).with_name("bank.npz")
_NEIGHBORS = 8  # a drawn hand lies between a person and one of so many who are most alike
# Of every ten people: whose hands a split draws from. Only val and val_hard share some.
_SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10), "val_hard": range(8, 9)}


class Shapes(Protocol):
    """Where hands come from: a `HandBank`, or the model of results/make_bank.py."""

    def sample_shape(self, rng: np.random.Generator) -> HandShape:
        """Draw an adult's right hand."""


class HandBank:
    """The people of one split (train, val, test or val_hard) in a bank."""

    def __init__(self, path: Path = BUNDLED, split: str = "train"):
        require_file(path, "a bank of hand shapes; results/make_bank.py makes one")
        try:
            with np.load(path) as file:
                arrays = ("mean", "components", "people", "weights")
                self._mean, self._components, people, weights = (file[name].astype(float) for name in arrays)
                self._faces = file["faces"].astype(np.int32)
            self._weights, self._loop = weights / weights.sum(1, keepdims=True), boundary_loop(self._faces)
        except Exception as error:  # a damaged file can fail in many ways
            raise UserError(f"{path} is no bank of hand shapes, or damaged.") from error
        self._people = people[np.isin(np.arange(len(people)) % 10, _SHARES[split])]
        if len(self._people) < 2:
            raise UserError(f"{path} has {len(people)} people: too few for a split {split}, make 20 or more.")

    def sample_shape(self, rng: np.random.Generator) -> HandShape:
        """Draw a hand between one person's and that of somebody alike."""
        one = self._people[rng.integers(len(self._people))]
        alike = np.argsort(np.square(self._people - one).sum(axis=1))[1 : 1 + _NEIGHBORS]
        other = self._people[rng.choice(alike)]
        share = rng.uniform(0, 0.5)
        return self._shape_of(self._mean + (one + share * (other - one)) @ self._components)

    def _shape_of(self, points: np.ndarray) -> HandShape:
        """The hand whose vertices and then joints are these points (3P,), mm."""
        vertices, joints = np.split(points.reshape(-1, 3), [len(self._weights)])
        return finish_shape(vertices, joints.reshape(5, 5, 3), self._faces, self._weights, self._loop)
