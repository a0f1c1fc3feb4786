"""Properties of the adaptive weighting head and the networks around it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from model import build_network
from model.awr import decode, dense_to_joints, joints_to_dense
from model.loss import awr_loss

KERNEL_SIZES = st.sampled_from([0.4, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    uv=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    surface=st.floats(-0.8, 0.8),
    behind=st.floats(0, 0.1),
    kernel_size=KERNEL_SIZES,
)
def test_joints_survive_encoding_where_foreground_surrounds_them(uv, surface, behind, kernel_size):
    image, joint = torch.full((1, 1, 128, 128), surface), torch.tensor([[[*uv, surface + behind]]])
    decoded = dense_to_joints(joints_to_dense(joint, image, kernel_size, 64), image, kernel_size)
    assert (decoded - joint).norm().item() < 0.02  # 1 % of the cube, whose edge is 2


@pytest.mark.parametrize("mask", ["empty", "full", "one pixel"])
@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_gradients_are_finite_on_every_mask(mask, kernel_size):
    image = torch.zeros(2, 1, 128, 128) if mask == "full" else torch.ones(2, 1, 128, 128)
    if mask == "one pixel":
        image[:, :, 40, 40] = 0.1
    dense = torch.randn(2, 56, 64, 64, requires_grad=True)
    joint_uvd = torch.rand(2, 14, 3) * 2 - 1
    awr_loss([dense], image, joint_uvd, kernel_size).total({"dense": 1, "coord": 1}).backward()
    assert torch.isfinite(dense.grad).all()


def test_a_joint_on_a_pixel_has_no_undefined_direction():
    image = torch.zeros(1, 1, 128, 128)
    pixel = torch.tensor([[[0.5 / 64 * 2 - 1, 0.5 / 64 * 2 - 1, 0.0]]])
    dense = joints_to_dense(pixel, image, 0.4, 64)
    assert torch.isfinite(dense).all()
    assert dense[0, 3, 0, 0].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_head_sums_in_float32_whatever_the_networks_precision(dtype):
    image = torch.rand(2, 1, 128, 128) * 2 - 1
    dense = torch.randn(2, 56, 64, 64).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        inside = dense_to_joints(dense, image, 0.4)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, dense_to_joints(dense.float(), image, 0.4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel_size", [0.4, 0.7, 1.0])
def test_maps_end_where_the_kernel_does(kernel_size):
    image = torch.rand(3, 1, 64, 64) * 2 - 1
    image[image > 0.5] = 1
    joint = torch.rand(3, 5, 3) - 0.5
    dense = joints_to_dense(joint, image, kernel_size, 32).view(3, 20, -1)
    direction, closeness = dense[:, :15].unflatten(1, (5, 3)), dense[:, 15:]
    covered = direction.norm(dim=2) > 0.5
    torch.testing.assert_close(covered, closeness > 0)
    assert 0 < covered.sum() < covered.numel()
    assert not covered[(image[:, :, ::2, ::2].flatten(2) == 1).expand_as(covered)].any()


@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_confidence_grows_with_closeness_and_agreement(kernel_size):
    image = torch.zeros(1, 1, 128, 128)
    joint = torch.tensor([[[0.4, -0.3, 0.0]]])
    dense = joints_to_dense(joint, image, kernel_size, 64)
    near = decode(dense, image, kernel_size).confidence
    faint = dense.clone()
    faint[:, 3:] *= 0.5
    torn = torch.maximum(dense, dense.flip(-1))  # as if there were two of it
    none = decode(dense, torch.ones_like(image), kernel_size).confidence
    assert near.shape == (1, 1)
    assert near.dtype == torch.float32
    assert near.item() > 0.8
    assert decode(faint, image, kernel_size).confidence.item() < 0.6 * near.item()
    assert decode(torn, image, kernel_size).confidence.item() < 0.85 * near.item()
    assert none.item() == 0


@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_confidence_measures_the_voters_spread_by_the_kernel(kernel_size):
    dense = torch.zeros(1, 4, 64, 64)
    dense[0, 3, 32, [24, 39]] = 1  # two pixels vote, each 15/64 from their middle
    confidence = decode(dense, torch.zeros(1, 1, 128, 128), kernel_size).confidence
    assert confidence.item() == pytest.approx(1 - 15 / 64 / kernel_size, abs=1e-3)


def test_confidence_is_a_share_whatever_a_network_says():
    image = torch.rand(4, 1, 64, 64) * 2 - 1
    for dense in (torch.randn(4, 8, 32, 32) * 9, torch.zeros(4, 8, 32, 32), torch.full((4, 8, 32, 32), -5.0)):
        confidence = decode(dense, image, 0.4).confidence
        assert ((confidence >= 0) & (confidence <= 1)).all()


def test_loss_is_the_sum_over_stages():
    image, joint_uvd = torch.rand(1, 1, 128, 128) * 2 - 1, torch.rand(1, 14, 3)
    stages = [torch.randn(1, 56, 64, 64) for _ in range(2)]
    weights = {"dense": 1.0, "coord": 2.0}
    both = awr_loss(stages, image, joint_uvd, 0.4)
    each = [awr_loss([dense], image, joint_uvd, 0.4).total(weights) for dense in stages]
    torch.testing.assert_close(both.total(weights), sum(each))
    torch.testing.assert_close(both.total(weights), both.terms["dense"] + 2 * both.terms["coord"])


@pytest.mark.parametrize("kernel_size", [0.4, 1.0])
def test_loss_compiles_in_one_piece(kernel_size):
    image = torch.where(torch.rand(3, 1, 64, 64) < 0.5, torch.rand(3, 1, 64, 64) * 2 - 1, 1.0)
    joint_uvd, dense = torch.rand(3, 14, 3) * 2 - 1, torch.randn(3, 56, 32, 32, requires_grad=True)
    torch.compiler.reset()
    compiled = torch.compile(awr_loss, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for loss in (awr_loss, compiled):
        terms, joints = loss([dense], image, joint_uvd, kernel_size)
        total = terms["dense"] + 2 * terms["coord"]
        results.append((terms, joints, *torch.autograd.grad(total, dense)))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("resnet_18", 15.38, 7.55),
        ("resnet_50", 34, 14.3),
        ("hourglass_1", 4.58, 11.44),
        ("hourglass_2", 8.66, 17.97),
    ],
)
def test_size_and_cost_are_those_of_the_specification(name, millions, gflops):
    with torch.device("meta"):
        network, image = build_network(name, 14).eval(), torch.zeros(1, 1, 128, 128)
        with FlopCounterMode(display=False) as counter:
            network(image)
    size = sum(parameter.numel() for parameter in network.parameters())
    assert size / 1e6 == pytest.approx(millions, abs=0.005)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.005)


@pytest.mark.parametrize(
    ("name", "downsample", "stages"),
    [("resnet_101", 2, 1), ("hourglass_3", 2, 3)],  # others: test_parity.py
)
def test_every_network_gives_a_list_with_one_dense_map_per_stage(name, downsample, stages):
    network = build_network(name, 16, downsample).eval()
    with torch.inference_mode():
        denses = network(torch.zeros(1, 1, 64, 64))
    assert [dense.shape for dense in denses] == stages * [(1, 64, 64 // downsample, 64 // downsample)]


def test_initial_weights_follow_the_specification():
    network = build_network("resnet_50", 14)
    conv, head = network.layer3[0].conv2.weight, network.final1
    assert conv.std().item() == pytest.approx((2 / (9 * conv.shape[0])) ** 0.5, rel=0.02)
    assert network.deconv_layers[0].weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not head.bias.any()
