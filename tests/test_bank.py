"""Banks of hand shapes: what is drawn from them, and what is not one."""

from itertools import permutations

import numpy as np

from dataloader.synthetic.hand.bank import BUNDLED, HandBank
from results.make_bank import write_bank
from tests.helpers.project import need_synthetic_hand


class Passing:
    """A stand-in for anny: the bundled bank's people, one after the other."""

    def __init__(self):
        self.drawn, self.bank = [], HandBank(BUNDLED, "train")

    def sample_shape(self, rng):
        self.drawn.append(self.bank.sample_shape(rng))
        return self.drawn[-1]


def test_a_bank_gives_hands_between_its_people(tmp_path):
    people = Passing()
    write_bank(tmp_path / "bank.npz", people, 20, seed=0)
    meshes = np.stack([shape.vertices for shape in people.drawn])
    bank = HandBank(tmp_path / "bank.npz", "train")
    for seed in range(5):
        drawn, off = bank.sample_shape(np.random.default_rng(seed)), []
        for one, other in permutations(meshes, 2):
            share = ((drawn.vertices - one) * (other - one)).sum() / ((other - one) ** 2).sum()
            off.append(np.abs(one + np.clip(share, 0, 0.5) * (other - one) - drawn.vertices).max())
        assert min(off) < 0.3  # mm
        np.testing.assert_allclose(np.linalg.norm(drawn.hinges, axis=1), 1)
    assert [len(HandBank(tmp_path / "bank.npz", split)._people) for split in ("val", "test")] == [2, 2]


def test_a_bank_that_cannot_be_used_is_one_sentence(tmp_path, fails):
    need_synthetic_hand()
    (tmp_path / "short.npz").write_bytes(BUNDLED.read_bytes()[:5000])
    write_bank(tmp_path / "few.npz", Passing(), 9, seed=0)
    words = {"short": "or damaged", "few": "make 20 or more", "absent": "absent.npz is missing"}
    for bank, word in words.items():
        arguments = ("--split", "val", "--frames", "2", "--bank", tmp_path / f"{bank}.npz")
        assert word in fails("dataloader.synthetic", "--out", tmp_path / "out", *arguments)
    for out, people in ((tmp_path / "few.npz", 20), (tmp_path / "x", 20), (tmp_path / "x.npz", 19)):
        said = fails("results/make_bank.py", "--out", out, "--people", people)
        assert "is a new file that ends with .npz" in said
