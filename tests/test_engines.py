"""Engines in a process with signals and threads: no crash, and every thread gets its own answer."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT, output_of
from tests.helpers.trained_network import SPEC, example_crops, trained
from util.camera import CAMERAS
from util.checkpoint import save_checkpoint
from util.deployment.backends import load_backend
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker

pytestmark = pytest.mark.slow

CAMERA = CAMERAS["nyu"].camera
THREADS = 8


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "openvino"])
def engine(request):
    if request.param != "torch":
        pytest.importorskip("onnxscript")
        pytest.importorskip(request.param)
    return request.param


SIGNAL_AFTER_NINE = """
import os, signal, sys
from tests.helpers.trained_network import SPEC, example_crops, trained
from util.deployment import backends as module
from util.deployment.backends import load_backend, to_onnx

if sys.argv[1] != "torch":  # the graph is made once: that takes 10 s
    graph = to_onnx(trained(SPEC), SPEC)
    module.to_onnx = lambda *_: graph
signal.signal(signal.SIGINT, lambda *_: print("heard"))
backends = [load_backend(trained(SPEC), SPEC, sys.argv[1]) for _ in range(9)]  # MSRA's folds
for backend in backends:
    backend(example_crops(1, SPEC.img_size))
while backends:
    del backends[0]  # in the order in which they came
os.kill(os.getpid(), signal.SIGINT)
print("alive")
"""


def test_a_signal_after_nine_backends_went_ends_no_process(engine):
    said = output_of(sys.executable, "-c", SIGNAL_AFTER_NINE, engine, cwd=PROJECT)
    assert said.split()[-2:] == ["heard", "alive"]


def in_threads(call, expected, atol):
    """Every thread's calls give its own answer."""
    with ThreadPoolExecutor(THREADS) as pool:
        for answers, own in zip(pool.map(call, range(THREADS)), expected, strict=True):
            for answer in answers:
                np.testing.assert_allclose(answer, own, rtol=0, atol=atol)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_share_a_backend_get_their_own_answers(engine, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = load_backend(trained(SPEC), SPEC, engine)
    finally:
        torch.set_num_threads(before)
    crops = example_crops(THREADS, SPEC.img_size).split(1)
    expected = [run(crop)[0] for crop in crops]
    assert (torch.cat(expected).std(0) > 0.003).any()  # the answers differ
    in_threads(lambda i: [run(crops[i])[0] for _ in range(6)], expected, atol=1e-4)


def test_threads_that_share_a_predictor_get_their_own_hands(engine, tmp_path):
    save_checkpoint(tmp_path / "a.pth", trained(SPEC), SPEC)
    predictor = HandPosePredictor(tmp_path / "a.pth", "cpu", min_confidence=0.0, backend=engine)
    centers = [np.array([30.0 * i - 100, 10.0 * i - 40, 600 + 20.0 * i]) for i in range(THREADS)]
    frames = [ball_hand(open_hand(center)) for center in centers]
    expected = [predictor.predict(frame, CAMERA).joints_xyz for frame in frames]
    in_threads(lambda i: [predictor.predict(frames[i], CAMERA).joints_xyz for _ in range(2)], expected, 0.5)
    in_threads(lambda i: [HandTracker(predictor, CAMERA).update(frames[i]).joints_xyz], expected, 0.5)
