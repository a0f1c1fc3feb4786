"""What is deployed computes what was trained: folding, the exported graph, and every engine."""

import copy
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from config import Config
from dataloader import dataset_info
from dataloader.dataset import build_dataset
from model.awr import decode, dense_to_joints
from tests.helpers.project import PROJECT
from tests.helpers.refused import refused
from tests.helpers.sphere_hands import write_sphere_hands
from tests.helpers.trained_network import SIZE, SPEC, example_crops, shift_mm, trained
from util.checkpoint import ModelSpec, load_network, load_or_init_network, save_checkpoint
from util.deployment import backends
from util.deployment.backends import exported_int8, load_backend, load_engine
from util.deployment.export import LIMITS, export
from util.deployment.folding import fuse_conv_bn
from util.deployment.graph import to_onnx
from util.deployment.int8 import calibration_dataset, kept_in_float, quantize, spread_crops
from util.device import has_fast_bf16, has_vnni
from util.inference.predictor import HandPosePredictor
from util.training.engine import make_loader, predict_frames


def expected_of(network, image, kernel_size=SPEC.kernel_size):
    with torch.inference_mode():
        dense = network(image)[-1]
        joints = dense_to_joints(dense, image, kernel_size)
        return joints, decode(dense, image, kernel_size).confidence


@pytest.mark.parametrize(
    ("net", "left"), [("resnet_18", 0), ("resnet_50", 0), ("hourglass_1", 17), ("hourglass_2", 31)]
)
def test_folding_changes_nothing_but_the_number_of_layers(net, left):
    network = trained(ModelSpec(net, 3, 2, 1.0))
    keys, image = list(network.state_dict()), example_crops(2, 64)
    folded = fuse_conv_bn(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    assert list(network.state_dict()) == keys
    with torch.inference_mode():
        for found, expected in zip(folded(image), network(image), strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def need(*packages):
    for package in packages:
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def network():
    return trained(SPEC)


@pytest.fixture(scope="module")
def graph(network):
    need("onnxscript")
    return to_onnx(network, SPEC)


SLOW_ENGINES = [pytest.param(name, marks=pytest.mark.slow) for name in ("onnxruntime", "openvino")]


@pytest.mark.parametrize("backend", ["torch", *SLOW_ENGINES])
def test_an_engine_gives_the_networks_joints_for_any_batch(backend, network, request, monkeypatch):
    if backend != "torch":
        need(backend)
        graph = request.getfixturevalue("graph")  # to export it takes seconds
        monkeypatch.setattr("util.deployment.backends.to_onnx", lambda *_: graph)
    run, kept = load_backend(network, SPEC, backend), []
    for image in (example_crops(1, SIZE), example_crops(3, SIZE).numpy(), example_crops(2, SIZE)):
        joints, confidence = run(image)
        expected_joints, expected_confidence = expected_of(network, torch.as_tensor(image))
        assert joints.std(dim=1).min() > 0.01  # they are not all in one place
        assert shift_mm(joints, expected_joints).max() < (0.01 if backend == "torch" else 0.05)
        torch.testing.assert_close(confidence, expected_confidence, rtol=0, atol=1e-3)
        kept.append((joints, expected_joints))
    assert shift_mm(*kept[0]).max() < 0.05  # later calls leave earlier answers alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "precision"), [("resnet_18", "bf16"), ("resnet_18", "int8"), ("hourglass_1", "int8")]
)
def test_rounding_moves_the_shipped_networks_joints_little(net, precision, tmp_path):
    need("openvino", "onnxscript", "nncf")
    if not (has_vnni() if precision == "int8" else has_fast_bf16()):
        pytest.skip("this processor has no such numbers")
    config = Config(net=net, load_model=str(PROJECT / f"results/{net}_synth.pth")).resolved()
    network, spec = load_or_init_network(config)
    if precision == "int8":
        export(tmp_path / "int8.xml", network, spec, config)
        run, _ = load_engine(tmp_path / "int8.xml")
    else:
        run = load_backend(network, spec, "openvino", precision)
    crops = spread_crops(build_dataset(config), 48)
    expected, _ = expected_of(network.eval(), torch.from_numpy(crops), spec.kernel_size)
    shift = shift_mm(run(crops)[0], expected).mean()
    assert 0 < shift < {"bf16": 0.2, "int8": 0.5}[precision]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18])
def test_a_graph_for_older_engines_says_what_it_is(opset, network):
    onnx = pytest.importorskip("onnx")
    content = to_onnx(network, SPEC, opset)
    graph, image = onnx.load_from_string(content), example_crops(2, SIZE)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == opset
    assert graph.graph.output[1].name == "confidence"
    expected, _ = load_backend(network, SPEC)(image)
    torch.testing.assert_close(backends.run_by_onnxruntime(content)(image)[0], expected, rtol=0, atol=1e-4)
    entries = {prop.key: prop.value for prop in graph.metadata_props}
    assert [entries[name] for name in ("net", "num_joints", "img_size")] == ["resnet_18", "14", str(SIZE)]
    assert float(entries["kernel_size"]) == 1.0
    assert json.loads(entries["joint_names"]) == list(dataset_info("synth").joint_names)
    assert json.loads(entries["cube"]) == [300, 300, 300]


@pytest.mark.parametrize(
    ("backend", "precision", "sentence"),
    [
        ("tensorrt", "fp32", "There is no backend 'tensorrt'"),
        ("torch", "int8", "no precision int8: it has fp32, bf16, fp16"),
        ("onnxruntime", "bf16", "no precision bf16"),
        ("openvino", "int8", "it has fp32, bf16"),
    ],
)
def test_what_is_not_there_is_one_sentence(backend, precision, sentence, network):
    with pytest.raises(ValueError, match=sentence):
        load_backend(network, SPEC, backend, precision)


def test_a_missing_package_names_what_to_install(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with refused("onnx is not installed: pip install -r requirements-deploy.txt"):
        load_backend(network, SPEC, "onnxruntime")


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    """Three frames of either split, and settings that read them."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        write_sphere_hands(folder / "synth", split, 3, seed=len(split))
    return Config(data_dir=str(folder), img_size=SIZE, downsample=4).resolved()


def test_int8_measures_its_ranges_on_training_frames_or_says_why_not(hands, tmp_path, capsys):
    config = replace(hands, data_dir=shutil.copytree(hands.data_dir, tmp_path, dirs_exist_ok=True))
    train, test = (
        spread_crops(build_dataset(replace(config, split=split)), 3) for split in ("train", "test")
    )
    np.testing.assert_array_equal(spread_crops(calibration_dataset(config), 3), train)
    assert not capsys.readouterr().out
    shutil.rmtree(tmp_path / "synth" / "train")
    np.testing.assert_array_equal(spread_crops(calibration_dataset(config), 3), test)
    said = capsys.readouterr().out
    assert "ranges are measured on the test split" in said
    assert "train is missing" in said
    assert said.count("\n") == 1


INT8_SPEC = SPEC._replace(cube=(250.0, 250.0, 250.0))


@pytest.fixture(scope="module")
def int8_file(network, graph, hands, tmp_path_factory):
    """What export writes beside a checkpoint, from the graph that is there."""
    pytest.importorskip("nncf")
    path = tmp_path_factory.mktemp("int8") / "int8.xml"
    save_checkpoint(path.with_suffix(".pth"), network, INT8_SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("util.deployment.export.to_onnx", lambda *_: graph)
        patch.setitem(LIMITS, ".xml", 50.0)  # rounding moves random weights' joints far
        export(path, network, INT8_SPEC, replace(hands, load_model=str(path.with_suffix(".pth"))))
    return path


@pytest.mark.slow
def test_an_int8_file_is_what_was_in_memory(int8_file, graph, network, hands):
    assert sorted(file.name for file in int8_file.parent.iterdir()) == ["int8.bin", "int8.pth", "int8.xml"]
    assert int8_file.with_suffix(".bin").stat().st_size < 0.3 * len(graph)
    run, spec = load_engine(int8_file)
    assert spec == INT8_SPEC
    calibration = spread_crops(calibration_dataset(hands), 3)
    in_memory = backends.run_by_openvino(quantize(backends.openvino_core().read_model(graph), calibration))
    for image in (torch.from_numpy(calibration), calibration[:1]):
        joints, confidence = run(image)
        expected_joints, expected_confidence = in_memory(image)
        assert shift_mm(joints, expected_joints).max() < 0.01
        torch.testing.assert_close(confidence, expected_confidence, rtol=0, atol=1e-4)
    expected_joints, _ = expected_of(network, torch.from_numpy(calibration[:1]))
    assert 0 < shift_mm(joints, expected_joints).mean() < 50


@pytest.mark.slow
def test_test_py_runs_an_int8_file(int8_file, hands, tmp_path, succeeds):
    flags = ("--load_model", int8_file, "--data_dir", hands.data_dir, "--output_dir", tmp_path)
    ran = succeeds("test.py", *flags)
    assert f"{int8_file} was trained with img_size {SIZE}: this wins over 128" in ran.out
    run, _ = load_engine(int8_file)
    loader = make_loader(build_dataset(replace(hands, cube=INT8_SPEC.cube)), 3, 0, torch.device("cpu"))
    expected = predict_frames(lambda image: run(image)[0], loader, torch.device("cpu"))
    np.testing.assert_allclose(np.loadtxt(tmp_path / "predictions.txt"), expected.reshape(3, -1), atol=1e-3)


def entities(count):
    each = b"".join(b"<!ENTITY e%d '&e%d;'>" % (i + 1, i) for i in range(count))
    return b"<!DOCTYPE net [<!ENTITY e0 'e'>" + each + b"]><net>&e%d;</net>" % count


DAMAGES = {
    "a cut .xml": lambda xml, weights: (xml[: len(xml) // 2], weights),
    "a cut .bin": lambda xml, weights: (xml, weights[:-1]),
    "another bit": lambda xml, weights: (xml, weights[:5000] + bytes([weights[5000] ^ 1]) + weights[5001:]),
    "no .bin": lambda xml, weights: (xml, None),
    "no spec": lambda xml, weights: (xml.replace(b"<awr>", b"<a>").replace(b"</awr>", b"</a>"), weights),
    "no digest": lambda xml, weights: (xml.replace(b"weights_sha256", b"weights"), weights),
    "no XML": lambda xml, weights: (b"hello", weights),
    "XML of others": lambda xml, weights: (b"<html><body/></html>", weights),
    "of an unknown encoding": lambda _, weights: (b'<?xml version="1.0" encoding="klingon"?><a/>', weights),
    "UTF-16": lambda xml, weights: (xml.decode().encode("utf-16"), weights),
    "a million entities": lambda _, weights: (entities(1_000_000), weights),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_int8_file_that_cannot_be_read_is_one_sentence(damage, int8_file, tmp_path):
    path = tmp_path / "damaged.xml"
    graph, weights = damage(int8_file.read_bytes(), int8_file.with_suffix(".bin").read_bytes())
    path.write_bytes(graph)
    if weights is not None:
        path.with_suffix(".bin").write_bytes(weights)
    began = time.monotonic()
    with refused(f"{path} cannot be read: it or the .bin beside it is damaged or missing"):
        load_engine(path)
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_auto_takes_an_int8_file_of_this_checkpoint_alone(int8_file, tmp_path, monkeypatch):
    monkeypatch.setattr("util.deployment.backends.has_vnni", lambda: True)
    cpu, checkpoint = torch.device("cpu"), tmp_path / "a.pth"
    parts = [int8_file.with_suffix(end) for end in (".pth", ".xml", ".bin")]
    _, xml, weights = copies = [checkpoint.with_suffix(part.suffix) for part in parts]
    for part, copied in zip(parts, copies, strict=True):  # not exported, then half of it
        assert exported_int8(checkpoint, cpu) is None
        shutil.copy(part, copied)
    os.utime(xml, (0, 0))  # as tar and cp -p leave it
    assert exported_int8(checkpoint, cpu) == xml
    assert exported_int8(checkpoint, torch.device("cuda")) is None
    assert HandPosePredictor(checkpoint, backend="auto").checkpoint == xml
    network, _ = load_network(checkpoint, INT8_SPEC)
    network.final1.weight.data *= 1.001
    save_checkpoint(checkpoint, network, INT8_SPEC)  # the same network, trained on
    assert exported_int8(checkpoint, cpu) is None
    shutil.copy(parts[0], checkpoint)
    for damage in ("another bit", "no digest", "a million entities"):
        graph, content = DAMAGES[damage](*map(Path.read_bytes, parts[1:]))
        xml.write_bytes(graph), weights.write_bytes(content)
        assert exported_int8(checkpoint, cpu) is None
    for part, copied in zip(parts, copies, strict=True):
        shutil.copy(part, copied)
    assert exported_int8(checkpoint, cpu) == xml
    monkeypatch.setattr("util.deployment.backends.has_vnni", lambda: False)
    assert exported_int8(checkpoint, cpu) is None


def test_a_missing_int8_file_names_the_command_that_writes_it(tmp_path):
    with refused("an int8 file; `python -m ", f" --precision int8 --out {tmp_path}/none.xml` wri"):
        load_engine(tmp_path / "none.xml")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("int8.xml", "2.0"), ("model.onnx", "0.05")])
def test_what_moves_joints_is_not_written(name, limit, network, graph, hands, tmp_path, monkeypatch):
    for package in ("openvino", "onnxruntime"):
        pytest.importorskip(package)
    onnx = pytest.importorskip("onnx")
    damaged = onnx.load_from_string(graph)
    for weights in damaged.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.shape == (42, 256, 1, 1):
            weights.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values * 1.1), weights.name))
    far = (torch.full((3, 14, 3), 0.5), torch.ones(3, 14))
    content = graph if name == "int8.xml" else damaged.SerializeToString()
    monkeypatch.setattr("util.deployment.export.to_onnx", lambda *_: content)
    monkeypatch.setattr("util.deployment.export.quantize", lambda model, crops: model)
    monkeypatch.setattr("util.deployment.export.load_engine", lambda path: (lambda image: far, SPEC))
    save_checkpoint(tmp_path / "a.pth", network, SPEC)
    with refused(f"at most, more than {limit}: nothing was written to {tmp_path / name}"):
        export(tmp_path / name, network, SPEC, replace(hands, load_model=str(tmp_path / "a.pth")))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_exported_weights_are_half_as_large_and_say_where_they_come_from(network, tmp_path, succeeds):
    files = [tmp_path / name for name in ("best.pth", "weights.pth")]
    save_checkpoint(files[0], network, SPEC, optimizer={"state": {}}, step=7, revision="abc")
    succeeds("util.deployment.export", "--load_model", files[0], "--out", files[1])
    assert files[1].stat().st_size < 0.51 * files[0].stat().st_size
    content = torch.load(files[1], weights_only=True)
    assert (content["step"], content["revision"], "optimizer" in content) == (7, "abc", False)
    loaded, spec = load_network(files[1], SPEC)
    assert spec == SPEC
    for key, weight in loaded.state_dict().items():
        # Batch norms and biases are kept as they are.
        rounded = {"rtol": 2**-11, "atol": 1e-7} if weight.dim() > 1 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(weight, network.state_dict()[key], **rounded)


def test_a_checkpoints_own_data_set_wins(tmp_path, succeeds, fails):
    spec, path = ModelSpec("hourglass_1", 21, 2, 0.4, "msra", img_size=32), tmp_path / "a.pth"
    command = ("util.deployment.export", "--load_model", path, "--out", tmp_path / "b.pth")
    save_checkpoint(path, trained(spec), spec)
    assert f"{path} was trained on msra: this wins over synth." in succeeds(*command).out
    assert load_network(tmp_path / "b.pth", SPEC)[1] == spec
    torch.save({"model": trained(spec).state_dict()}, path)  # does not say what it is
    command += ("--net", "hourglass_1", "--img_size", "32")
    assert "predicts 21 joints, not the 14 of synth" in fails(*command)
    succeeds(*command, "--dataset", "msra")
    assert load_network(tmp_path / "b.pth", SPEC)[1] == spec


def test_weights_too_large_for_fp16_are_not_written(network, tmp_path, fails):
    too_large = copy.deepcopy(network)
    too_large.final1.weight.data[0, 0] = 1e6
    save_checkpoint(tmp_path / "best.pth", too_large, SPEC)
    files = ("--load_model", tmp_path / "best.pth", "--out", tmp_path / "weights.pth")
    assert "more than 2.0: nothing was written to" in fails("util.deployment.export", *files)
    assert not (tmp_path / "weights.pth").exists()


def test_auto_takes_the_fastest_that_is_there(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.fastest_backend(cpu) == ("torch", "fp32")
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    assert backends.fastest_backend(gpu, "fp16") == ("torch", "fp16")
    for capabilities, precision in ((["FP32"], "fp32"), (["FP32", "BF16"], "bf16")):
        core = SimpleNamespace(get_property=lambda *_, has=capabilities: has)
        monkeypatch.setattr(backends, "openvino_core", lambda core=core: core)
        assert backends.fastest_backend(cpu) == ("openvino", precision)


def test_what_touches_the_image_or_the_head_is_not_quantised():
    rows = """
        stem Convolution image | skip Convolution stem_relu | stem_relu Relu stem
        norm BatchNormalization stem_relu | first Convolution norm | inner Convolution first
        sum Add inner skip | pool MaxPool sum | of_sum Convolution sum
        of_pool ConvolutionBackpropData pool | merged Add of_pool of_sum | relu Relu merged
        deep Convolution relu | relu_2 Relu deep | last Convolution relu_2 | head Softmax last image
    """
    found = [row.split() for line in rows.strip().splitlines() for row in line.split("|")]
    kinds = {name: kind for name, kind, *_ in found}
    order = ["stem", "stem_relu", "norm", "skip", *list(kinds)[4:]]
    inputs = {name: set(reads) for name, _, *reads in found}
    kept = kept_in_float({name: kinds[name] for name in order}, {name: inputs[name] for name in order})
    quantised = {"inner", "sum", "of_pool", "merged", "relu", "deep", "relu_2"}
    assert set(kept) == set(kinds) - quantised
