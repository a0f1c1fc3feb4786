"""What is deployed computes what was trained: folding, the exported graph, and every engine."""

import shutil
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from config import Config
from dataloader import build_dataset
from model.awr import dense_to_joints
from model.confidence import joint_confidence
from tests.helpers.sphere_hands import write_sphere_hands
from util.checkpoint import ModelSpec, load_network, load_or_init_network, save_checkpoint
from util.deployment.backends import calibration_crops, load_backend, prepare_backend, spread_crops
from util.deployment.export import plate_images, to_onnx
from util.deployment.folding import fuse_conv_bn, largest_difference_mm, moved_mm
from util.deployment.int8 import Operation, kept_in_float
from util.device import has_fast_bf16, has_vnni

SIZE = 64
SPEC = ModelSpec("resnet_18", 14, 4, 1.0, "synth", SIZE)


def trained(spec):
    """A network whose joints depend on its image as a trained one's do, and whose statistics are its own."""
    torch.manual_seed(1)
    network = spec.build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.03)
    if spec.net.startswith("resnet"):
        for head in (network.final1, network.final2):
            nn.init.normal_(head.weight, std=0.02)
    return network


def expected_of(network, image, kernel_size=SPEC.kernel_size):
    with torch.inference_mode():
        dense = network(image)[-1]
        joints = dense_to_joints(dense, image, kernel_size)
        return joints, joint_confidence(dense, image, kernel_size)


@pytest.mark.parametrize(
    ("net", "left"), [("resnet_18", 0), ("resnet_50", 0), ("hourglass_1", 17), ("hourglass_2", 31)]
)
def test_folding_changes_nothing_but_the_number_of_layers(net, left):
    network = trained(ModelSpec(net, 3, 2, 1.0))
    keys, image = list(network.state_dict()), plate_images(2, 64)
    folded = fuse_conv_bn(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    assert list(network.state_dict()) == keys
    with torch.inference_mode():
        for found, expected in zip(folded(image), network(image), strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.fixture(scope="module")
def network():
    return trained(SPEC)


@pytest.fixture(scope="module")
def graph(network):
    pytest.importorskip("onnxscript")
    from util.deployment.folding import JointNetwork

    return to_onnx(JointNetwork(network, SPEC.kernel_size), SPEC)


@pytest.fixture
def load(network, graph, monkeypatch):
    """Load a backend on the graph that is there: to export it takes seconds."""
    monkeypatch.setattr("util.deployment.backends.to_onnx", lambda *_: graph)

    def load(backend):
        pytest.importorskip(backend)
        return load_backend(network, SPEC, backend)

    return load


def test_the_torch_backend_is_the_network(network):
    run = load_backend(network, SPEC)
    for image in (plate_images(3, SIZE), plate_images(1, SIZE).numpy()):
        joints, confidence = run(image)
        expected_joints, expected_confidence = expected_of(network, torch.as_tensor(image))
        assert largest_difference_mm(joints, expected_joints, 300) < 0.01
        torch.testing.assert_close(confidence, expected_confidence, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_gives_the_same_joints_for_any_batch(backend, network, load):
    run = load(backend)
    kept = []
    for batch in (1, 3, 2):
        image = plate_images(batch, SIZE)
        joints, confidence = run(image)
        expected_joints, expected_confidence = expected_of(network, image)
        assert joints.std(dim=1).min() > 0.01  # they are not all in one place
        assert largest_difference_mm(joints, expected_joints, 300) < 0.05
        torch.testing.assert_close(confidence, expected_confidence, rtol=0, atol=1e-3)
        kept.append((joints, expected_joints))
    assert largest_difference_mm(*kept[0], 300) < 0.05  # later calls leave earlier answers alone


@pytest.mark.parametrize(
    ("net", "backend", "precision", "most_mm"),
    [
        ("resnet_18", "openvino", "bf16", 0.2),
        ("resnet_18", "openvino", "int8", 0.5),
        ("resnet_18", "onnxruntime", "int8", 0.5),
        ("hourglass_1", "openvino", "int8", 0.5),
        ("hourglass_1", "onnxruntime", "int8", 1.0),
    ],
)
def test_fewer_bits_move_the_shipped_networks_joints_little(net, backend, precision, most_mm):
    for package in (backend, "onnxscript", *["nncf"] * (backend == "openvino" and precision == "int8")):
        pytest.importorskip(package)
    if precision == "bf16" and not has_fast_bf16():
        pytest.skip("this processor has no bf16")
    if precision == "int8" and not has_vnni():
        pytest.skip("on this processor int8 has weights of 7 bits")
    config = Config(net=net, backend=backend, precision=precision).resolved()
    network, spec = load_or_init_network(config)
    dataset = build_dataset(config)
    run = prepare_backend(network, spec, config, torch.device("cpu"), dataset)
    crops = spread_crops(dataset, 48)
    expected, _ = expected_of(network.eval(), torch.from_numpy(crops), spec.kernel_size)
    moved = moved_mm(run(crops)[0], expected, max(config.cube))
    assert 0 < moved.mean() < most_mm


def test_what_touches_the_image_or_the_head_is_not_quantised():
    rows = """
        stem Conv image | skip Conv stem_relu | stem_relu Relu stem | norm BatchNormalization stem_relu
        first Conv norm | inner Conv first | sum Add inner skip | pool MaxPool sum | of_sum Conv sum
        of_pool Conv pool | merged Add of_pool of_sum | relu Relu merged | deep Conv relu | relu_2 Relu deep
        last Conv relu_2 | head Softmax last image
    """
    found = [row.split() for line in rows.strip().splitlines() for row in line.split("|")]
    named = {name: Operation(name, kind, inputs) for name, kind, *inputs in found}
    order = ["stem", "stem_relu", "norm", "skip", *list(named)[4:]]
    kept = kept_in_float([named[name] for name in order])
    quantised = {"inner", "sum", "of_pool", "merged", "relu", "deep", "relu_2"}
    assert set(kept) == set(named) - quantised


def test_a_graph_says_what_it_is(graph):
    import onnx

    held = {prop.key: prop.value for prop in onnx.load_from_string(graph).metadata_props}
    assert held["net"] == "resnet_18"
    assert float(held["kernel_size"]) == 1.0
    assert (held["num_joints"], held["img_size"]) == ("14", str(SIZE))


@pytest.mark.parametrize(
    ("backend", "precision", "sentence"),
    [
        ("tensorrt", "fp32", "There is no backend 'tensorrt'"),
        ("torch", "int8", "it has fp32, bf16, fp16; int8 is in onnxruntime, openvino"),
        ("onnxruntime", "bf16", "no precision bf16"),
        ("openvino", "int8", "none were given"),
    ],
)
def test_what_is_not_there_is_one_sentence(backend, precision, sentence, network):
    with pytest.raises(ValueError, match=sentence):
        load_backend(network, SPEC, backend, precision)


def test_a_missing_package_names_the_requirements(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"onnx is not installed: pip install -r requirements-deploy\.txt"):
        load_backend(network, SPEC, "openvino")


def test_broken_int8_is_refused(network, monkeypatch):
    frames = [type("Frame", (), {"image": image.numpy()}) for image in plate_images(4, SIZE)]
    config = Config(precision="int8", backend="onnxruntime", img_size=SIZE, split="train").resolved()
    far = (torch.full((4, 14, 3), 0.5), torch.ones(4, 14))
    monkeypatch.setattr("util.deployment.backends.load_backend", lambda *_: lambda image: far)
    with pytest.raises(ValueError, match="on this processor: use another backend or precision"):
        prepare_backend(network, SPEC, config, torch.device("cpu"), frames)


def test_int8_measures_its_ranges_on_training_frames_or_says_why_not(tmp_path, capsys):
    for split in ("train", "test"):
        write_sphere_hands(tmp_path / "synth", split, 3, seed=len(split))
    config = Config(data_dir=str(tmp_path), img_size=32).resolved()
    scored, training = (build_dataset(replace(config, split=split)) for split in ("test", "train"))
    np.testing.assert_array_equal(calibration_crops(config, scored), spread_crops(training, 3))
    assert not capsys.readouterr().out
    shutil.rmtree(tmp_path / "synth" / "train")
    np.testing.assert_array_equal(calibration_crops(config, scored), spread_crops(scored, 3))
    assert "ranges on frames that it is scored on" in (said := capsys.readouterr().out)
    assert "train is missing" in said


@pytest.fixture
def exported(network, graph, monkeypatch, tmp_path, run_script):
    pytest.importorskip("onnxruntime")
    save_checkpoint(tmp_path / "model.pth", network, SPEC)

    def run(content):
        # Only what would take seconds is left out: runpy executes the module anew.
        monkeypatch.setattr(
            "torch.onnx.export", lambda *_, **__: type("Program", (), {"model_proto": content})
        )
        common = ("--load_model", tmp_path / "model.pth", "--downsample", "4", "--img_size", SIZE)
        return run_script("util.deployment.export", *common, "--out", tmp_path / "model.onnx")

    return run


def test_the_command_writes_the_graph(exported, graph, tmp_path):
    import onnx

    ran = exported(onnx.load_from_string(graph))
    assert ran.code == 0, ran.err
    assert "of PyTorch's" in ran.out
    assert onnx.load(tmp_path / "model.onnx").graph.output[1].name == "confidence"


def test_a_graph_that_differs_is_not_written(exported, graph, tmp_path):
    import onnx

    damaged = onnx.load_from_string(graph)
    for weights in damaged.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.shape == (42, 256, 1, 1):
            weights.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values * 1.1), weights.name))
    ran = exported(damaged)
    assert ran.code == 2, ran
    assert "moves joints by up to" in ran.err
    assert not (tmp_path / "model.onnx").exists()


@pytest.fixture
def export_weights(network, tmp_path, run_script):
    def run(*arguments, weight=None):
        if weight is not None:
            network.final1.weight.data[0, 0] = weight
        save_checkpoint(tmp_path / "best.pth", network, SPEC, optimizer={"state": {}}, step=7, revision="abc")
        files = ("--load_model", tmp_path / "best.pth", "--out", tmp_path / "weights.pth")
        return run_script("util.deployment.export", *files, *arguments)

    return run


def test_exported_weights_are_half_as_large_and_say_where_they_come_from(export_weights, network, tmp_path):
    ran = export_weights()
    assert ran.code == 0, ran.err
    files = [tmp_path / name for name in ("best.pth", "weights.pth")]
    assert files[1].stat().st_size < 0.51 * files[0].stat().st_size
    content = torch.load(files[1], weights_only=True)
    assert (content["step"], content["revision"], "optimizer" in content) == (7, "abc", False)
    loaded, spec = load_network(files[1], SPEC)
    assert spec == SPEC
    for key, weight in loaded.state_dict().items():
        expected = network.state_dict()[key]
        assert weight.dtype == expected.dtype
        if weight.dim() > 1:
            torch.testing.assert_close(weight, expected, rtol=2**-11, atol=1e-7)
        else:
            assert torch.equal(weight, expected)  # batch norms and biases are kept as they are


def test_weights_with_a_shorter_mantissa_pack_smaller(export_weights, network, tmp_path):
    packed = {}
    for bits in (10, 5):
        ran = export_weights("--mantissa", bits)
        assert ran.code == 0, ran.err
        packed[bits] = len(zlib.compress((tmp_path / "weights.pth").read_bytes()))
        for key, weight in load_network(tmp_path / "weights.pth", SPEC)[0].state_dict().items():
            if weight.dim() > 1:
                expected = network.state_dict()[key]
                # Half a step beside what is asked for; the smallest are fp16's subnormal numbers.
                torch.testing.assert_close(weight, expected, rtol=2.0 ** -(bits + 1), atol=1e-7)
    assert packed[5] < 0.8 * packed[10]


@pytest.mark.parametrize("bits", [0, 11])
def test_a_mantissa_that_fp16_does_not_have(export_weights, tmp_path, bits):
    ran = export_weights("--mantissa", bits)
    assert ran.code == 2
    assert f"mantissa is {bits}: fp16 has 1 to 10 bits to keep" in ran.err
    assert not (tmp_path / "weights.pth").exists()


def test_a_graph_has_no_mantissa(tmp_path, run_script):
    ran = run_script("util.deployment.export", "--mantissa", 5, "--out", tmp_path / "model.onnx")
    assert ran.code == 2
    assert "name a .pth" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weights.pt", "weights.PTH", "model"])
def test_an_ending_says_what_to_export(name, tmp_path, run_script):
    ran = run_script("util.deployment.export", "--out", tmp_path / name)
    assert ran.code == 2
    assert "it must end in .onnx, for a graph, or .pth, for weights" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_fp16_are_not_written(export_weights, network, tmp_path):
    before = network.final1.weight.data.clone()
    ran = export_weights(weight=1e6)
    network.final1.weight.data.copy_(before)
    assert ran.code == 2
    assert "fp16 weights move joints" in ran.err
    assert not (tmp_path / "weights.pth").exists()
