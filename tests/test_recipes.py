"""Recipes by name: what they set, and that each trains; the plateau; frames that are held out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from config import RECIPES, Config
from dataloader.index import build_index
from tests.helpers.sphere_hands import write_sphere_hands
from util.training.engine import learning_rate
from util.training.trainer import finish_epoch

SMALL = (
    *("--dataset", "nyu", "--net", "hourglass_1", "--img_size", "32"),
    *("--batch_size", "4", "--num_workers", "0"),
)


@pytest.fixture(scope="module")
def nyu(tmp_path_factory):
    """A folder in NYU's layout with 101 training and 2 test frames."""
    root = tmp_path_factory.mktemp("data")
    for split, frames in (("train", 101), ("test", 2)):
        write_sphere_hands(root / "nyu", split, frames, seed=1)
    return root


def test_a_recipe_fills_what_no_flag_says():
    ours = Config(recipe="ours", lr=7.0).resolved()
    assert (ours.lr, ours.scheduler, ours.dense_weight) == (7.0, "cosine", 1000.0)
    assert (ours.optimizer, ours.weight_decay) == ("adam", 0.0)
    assert Config().resolved().lr == 1e-3
    assert Config(recipe="ours", ema=0.0).resolved().ema == 0.0  # a zero that is passed wins
    assert set().union(*RECIPES.values()) == set(RECIPES["default"])


@pytest.mark.slow
def test_the_four_recipes_train_and_phase_2_follows_phase_1(nyu, tmp_path, succeeds):
    start = ()
    for recipe in ("released_phase1", "released_phase2", "ipnet", "ours"):
        folder = tmp_path / recipe
        flags = ("--recipe", recipe, "--data_dir", nyu, "--max_epoch", "2", "--output_dir", folder, *start)
        ran = succeeds("train.py", *SMALL, *flags, "--log_every", "1", "--bn_batches", "1")
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert np.isfinite(losses).all()
        if recipe == "released_phase1":
            assert losses[0] == pytest.approx(1000 * lines[0]["dense"])  # the dense term alone
            start = ("--load_model", folder / "best.pth")
        elif recipe == "released_phase2":
            start = ()
        assert "scores it on test" in ran.out


def test_the_best_error_is_the_least_and_a_plateau_an_epoch_too_many_without_one():
    config = Config(scheduler="plateau", patience=1, lr=0.5).resolved()
    state = SimpleNamespace(config=config, best_mpe_mm=9.0, waited=0, cuts=0, epoch=0, step=0)
    state.processes = SimpleNamespace(print=lambda _: None)
    cuts, best = [], []
    for error in (8.0, 8.5, 8.2, 8.1, 7.0, 7.0, 7.6):
        best.append(finish_epoch(state, error))
        cuts.append(state.cuts)
    assert best == [True, False, False, False, True, False, False]
    assert cuts == [0, 0, 1, 1, 1, 1, 2]
    assert (state.best_mpe_mm, state.epoch) == (7.0, 7)
    assert [learning_rate(config, 9, cut) for cut in (0, 1, 2)] == pytest.approx([0.5, 0.05, 0.005])


def test_frames_held_out_are_not_trained_on(nyu):
    def frames(split, **settings):
        index = build_index(Config("nyu", str(nyu), split=split, **settings).resolved())
        return {index.frame_path(i).name for i in range(len(index.joint_xyz))}

    train, val = frames("train"), frames("val")
    assert len(val) == 3
    assert len(train) == 98
    assert not train & val
    assert frames("train", val_split="test") == train | val
