"""Checkpoints: ours, the published layout, bare weights, and what must be refused."""

import copy
import io
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from config import Config
from tests.helpers.refused import refused
from util.checkpoint import (
    ModelSpec,
    init_network,
    load_network,
    load_or_init_network,
    save_checkpoint,
    spec_from_config,
)

SPEC = ModelSpec("resnet_18", 14, 2, 1.0, "nyu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return SPEC.build()


def assert_same_weights(actual, expected):
    for (key, a), (other, b) in zip(actual.state_dict().items(), expected.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(a, b), key


def test_our_checkpoint_says_what_it_is_and_wins_over_the_settings_with_a_printed_line(
    tmp_path, network, capsys
):
    spec, path = SPEC._replace(kernel_size=0.7, dataset="synth"), tmp_path / "a.pth"
    save_checkpoint(path, network, spec, epoch=3)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]
    loaded, found = load_network(path, ModelSpec("hourglass_2", 21, 2, 0.4))
    assert found == spec
    assert_same_weights(loaded, network)
    config = Config(dataset="nyu", net="hourglass_1", load_model=str(path)).resolved()
    assert load_or_init_network(config)[1] == spec
    lines = capsys.readouterr().out.splitlines()
    assert any("net resnet_18" in line and "hourglass_1" in line for line in lines)
    assert any("kernel_size 0.7" in line and "0.4" in line for line in lines)


def test_weights_in_results_are_taken_where_none_are_named(tmp_path, network, capsys, monkeypatch):
    monkeypatch.setattr("util.checkpoint.RESULTS", tmp_path)
    config = Config(dataset="nyu").resolved()
    load_or_init_network(config)
    assert "resnet_18 is randomly initialised" in capsys.readouterr().out
    save_checkpoint(tmp_path / "resnet_18_nyu.pth", network, SPEC)
    loaded, spec = load_or_init_network(config)
    assert_same_weights(loaded, network)
    assert spec == SPEC
    assert str(tmp_path / "resnet_18_nyu.pth") in capsys.readouterr().out
    for other in ({"dataset": "synth"}, {"net": "hourglass_1"}):
        load_or_init_network(Config(**{"dataset": "nyu"} | other).resolved())
        assert "randomly initialised" in capsys.readouterr().out


def as_numpy_1_wrote(path):
    """NumPy 1 called its scalars' module by another name."""
    with zipfile.ZipFile(path) as archive:
        parts = [(item, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for item, content in parts:
            archive.writestr(item, content.replace(b"numpy._core", b"numpy.core"))


def prefixed(weights, prefix):
    return {prefix + key: value for key, value in weights.items()}


def published(weights):
    """The authors' file: names that begin with module, and records as NumPy's numbers."""
    records = {"epoch": 12, "MPE": np.float64(7.7), "AUC": np.float32(0.85)}
    return {"model": prefixed(weights, "module."), "optimizer": {"state": {}}, "best_records": records}


WRAPPINGS = {
    "of the authors": published,
    "of the authors, by NumPy 1": published,
    "of DataParallel": lambda weights: prefixed(weights, "module."),
    "of two DataParallels": lambda weights: {"model": prefixed(weights, "module.module.")},
    "of torch.compile": lambda weights: prefixed(weights, "_orig_mod."),
    "of both": lambda weights: prefixed(weights, "module._orig_mod."),
    "of Lightning": lambda weights: {"state_dict": prefixed(weights, "model."), "epoch": 3},
    "of Lightning, called net": lambda weights: {"state_dict": prefixed(weights, "net."), "callbacks": {}},
    "of the tutorial": lambda weights: {"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": {}},
    "beside a model's settings": lambda weights: {"model": {"depth": 18}, "state_dict": weights},
    "none, in the old file format": dict,
    "of ours, older": lambda weights: {"model": weights, "spec": SPEC._asdict() | {"target": "joints"}},
    "in half precision": lambda weights: {
        key: value.half() if value.is_floating_point() else value for key, value in weights.items()
    },
    "of PyTorch 0.4.0": lambda weights: {k: v for k, v in weights.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_weights_in_other_wrappings(tmp_path, network, name):
    content, as_zip = WRAPPINGS[name](network.state_dict()), "old file" not in name
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    if "NumPy 1" in name:
        as_numpy_1_wrote(tmp_path / "a.pth")
    loaded, spec = load_network(tmp_path / "a.pth", SPEC)
    assert spec == SPEC
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    if "half" in name:
        network = copy.deepcopy(network).half().float()
    assert_same_weights(loaded, network)


def test_a_checkpoint_of_another_network_lists_what_differs(tmp_path, network):
    weights = dict(network.state_dict())
    weights["final2.bias"] = torch.zeros(3)
    weights["extra"] = torch.zeros(1)
    del weights["pre.0.weight"]
    torch.save({"model": weights}, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r'Missing key.*"pre\.0\.weight".*Unexpected key.*"extra".*mismatch for final2\.bias'
    ):
        load_network(tmp_path / "a.pth", SPEC)


@pytest.mark.parametrize(
    ("net", "source", "dataset", "heads", "published"),
    [
        ("resnet_18", "nyu", "icvl", {"final1", "final2"}, True),
        ("resnet_18", "nyu", "icvl", {"final1", "final2"}, False),
        # As many joints, in another order.
        ("hourglass_2", "msra", "hands17", {"outs_1", "outs_2", "merge_preds"}, False),
    ],
)
def test_fine_tuning_on_other_joints_starts_the_last_layers_anew(
    tmp_path, capsys, net, source, dataset, heads, published
):
    path, own = tmp_path / "a.pth", Config(dataset=source, net=net).resolved()
    config = replace(own, dataset=dataset, load_model=str(path), seed=5)
    network, wanted = init_network(own), spec_from_config(config)
    content = {} if published else {"spec": spec_from_config(own)._asdict()}
    torch.save(content | {"model": network.state_dict()}, path)
    said = rf"predicts \d+ joints, not the {wanted.num_joints} of {dataset}\.$"
    with pytest.raises(ValueError, match=said):
        load_or_init_network(config)
    loaded, spec = load_or_init_network(config, training=True)
    assert spec == wanted
    assert "its last layers start from random weights" in capsys.readouterr().out
    fresh, trained = init_network(config).state_dict(), network.state_dict()
    changed = {k: v for k, v in loaded.state_dict().items() if not torch.equal(v, trained[k])}
    assert {key.split(".")[0] for key in changed} == heads
    assert all(torch.equal(value, fresh[key]) for key, value in changed.items())
    same, _ = load_or_init_network(replace(own, load_model=str(path)), training=True)
    assert_same_weights(same, network)


def test_a_cube_of_ones_own_wins_over_the_settings(tmp_path, network, capsys):
    config = Config(dataset="nyu", net="resnet_18", load_model=str(tmp_path / "a.pth")).resolved()
    assert spec_from_config(config).cube is None
    own = spec_from_config(replace(config, cube=(200.0, 200.0, 200.0)))
    save_checkpoint(tmp_path / "a.pth", network, own)
    assert load_or_init_network(config)[1] == own
    assert "cube (200.0, 200.0, 200.0): this wins over the data set's own" in capsys.readouterr().out
    assert load_or_init_network(config, training=True)[1].cube is None
    # Checkpoints that say nothing of it leave it to the settings.
    save_checkpoint(tmp_path / "a.pth", network, SPEC)
    asked = replace(config, cube=(300.0, 300.0, 300.0))
    capsys.readouterr()
    assert load_or_init_network(asked)[1].cube is None
    assert "cube" not in capsys.readouterr().out


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


DAMAGES = {
    "code": lambda _: _saved({"model": RunsCode()}),
    "empty": lambda _: b"",
    "text": lambda _: b"this is no checkpoint",
    "cut": lambda weights: _saved(weights)[:10_000_000],
    "plain pickle": lambda _: pickle.dumps([1, 2, 3]),
    "a list": lambda _: _saved([torch.zeros(1)]),
    "no tensors": lambda _: _saved({"model": {"epoch": 3}}),
    "two networks": lambda _: _saved({"model.a": torch.zeros(1), "net.a": torch.zeros(1)}),
    "nothing": lambda _: _saved({}),
    "a centre network": lambda _: _saved({"model": {"a": torch.zeros(1)}, "spec": {"target": "center"}}),
    "foreign spec": lambda weights: _saved({"model": weights, "spec": {"net": "resnet_18"}}),
    "sparse": lambda weights: _saved(weights | {"final2.bias": torch.zeros(14).to_sparse()}),
    "complex": lambda weights: _saved({"model": weights | {"final2.bias": torch.zeros(14) * 1j}}),
}


def _saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_end_in_one_sentence(tmp_path, network, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(DAMAGES[name](dict(network.state_dict())))
    with refused("a.pth", "refused" if name == "code" else ""):
        load_network(tmp_path / "a.pth", SPEC)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]  # no code was run


def test_a_missing_checkpoint_says_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("util.checkpoint.RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.pth").touch()
    with refused("results/mine.pth", "github.com"):
        load_network(tmp_path / "absent.pth", SPEC)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cube": (200.0, 200.0)}, "its spec is"),
        ({"cube": (200.0, 200.0, "deep")}, "holds no network"),
        ({"cube": (0.0, 200.0, 200.0)}, "cube is"),
        ({"cube": (-1.0, 200.0, 200.0)}, "cube is"),
        ({"cube": (float("nan"), 200.0, 200.0)}, "cube is"),
        ({"img_size": 127}, "img_size is 127"),
        ({"img_size": 10**6}, "img_size is 1000000"),
        ({"img_size": 0}, "img_size is 0"),
        ({"num_joints": 10**9}, "its spec is"),
        ({"num_joints": 0}, "its spec is"),
        ({"kernel_size": "big"}, "holds no network"),
        ({"net": "hourglass_100000"}, "hourglass_100000"),
        ({"net": "resnet_7"}, "resnet_7"),
        ({"downsample": 3}, "downsample 3"),
        ({"kernel_size": float("inf")}, "kernel_size is inf"),
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_is_refused_before_anything_is_built(tmp_path, network, change, sentence):
    save_checkpoint(tmp_path / "a.pth", network, SPEC._replace(**change))
    with refused("a.pth", sentence):
        load_network(tmp_path / "a.pth", SPEC)


def test_a_flipped_bit_is_found_wherever_it_lies(tmp_path):
    spec = ModelSpec("resnet_18", 1, 4, 1.0, "nyu")
    path = tmp_path / "a.pth"
    save_checkpoint(path, spec.build(), spec)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        weights = [item for item in archive.infolist() if "/data/" in item.filename and item.file_size > 1000]
    rng = np.random.default_rng(0)
    for item in rng.choice(len(weights), 20, replace=False):
        place = weights[item].header_offset + 200 + int(rng.integers(weights[item].file_size - 200))
        flipped = whole[place] ^ 1 << int(rng.integers(8))
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.pth is damaged"):
            load_network(path, spec)
    path.write_bytes(whole)
    load_network(path, spec)


def test_training_starts_from_one_file():
    with pytest.raises(ValueError, match=r"a.pth b.pth: name one file here"):
        load_or_init_network(Config(load_model=("a.pth", "b.pth")).resolved(), training=True)
