"""Engines in a process with signals and threads: no crash, and every thread gets its own answer."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.helpers.nyu_folder import ball_hand, open_hand
from tests.helpers.project import PROJECT
from tests.helpers.trained_network import SPEC, example_crops, trained
from util.camera import CAMERAS
from util.checkpoint import save_checkpoint
from util.deployment.backends import load_backend
from util.inference.predictor import HandPosePredictor
from util.inference.tracker import HandTracker

pytestmark = pytest.mark.slow

CAMERA = CAMERAS["nyu"].camera
ENGINES = ("torch", "onnxruntime", "openvino")
THREADS, CALLS = 8, 6


def need(engine):
    if engine != "torch":
        pytest.importorskip("onnxscript")
        pytest.importorskip(engine)


@pytest.fixture(scope="module")
def network():
    return trained(SPEC)


@pytest.fixture(scope="module")
def predictors(network, tmp_path_factory):
    """A predictor of each engine, made once."""
    path = tmp_path_factory.mktemp("weights") / "a.pth"
    save_checkpoint(path, network, SPEC)
    made = {}

    def predictor(engine):
        need(engine)
        if engine not in made:
            made[engine] = HandPosePredictor(path, "cpu", min_confidence=0.0, backend=engine)
        return made[engine]

    return predictor


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


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_after_nine_backends_went_ends_no_process(engine):
    need(engine)
    command = [sys.executable, "-c", SIGNAL_AFTER_NINE, engine]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-2:] == ["heard", "alive"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_share_a_backend_get_their_own_answers(engine, threads, network):
    need(engine)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = load_backend(network, SPEC, engine)
    finally:
        torch.set_num_threads(before)
    crops = example_crops(THREADS, SPEC.img_size).split(1)
    expected = [run(crop)[0] for crop in crops]
    assert (torch.cat(expected).std(0) > 0.003).any()  # the answers differ

    def call(i):
        return [run(crops[i])[0] for _ in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        for i, answers in enumerate(pool.map(call, range(THREADS))):
            for answer in answers:
                torch.testing.assert_close(answer, expected[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_share_a_predictor_get_their_own_hands(engine, predictors):
    predictor = predictors(engine)
    centers = [np.array([30.0 * i - 100, 10.0 * i - 40, 600 + 20.0 * i]) for i in range(THREADS)]
    frames = [ball_hand(open_hand(center)) for center in centers]
    expected = [predictor.predict(frame, CAMERA).joints_xyz for frame in frames]

    def alone(i):
        return [predictor.predict(frames[i], CAMERA).joints_xyz for _ in range(2)]

    def tracked(i):
        tracker = HandTracker(predictor, CAMERA)
        return [tracker.update(frames[i]).joints_xyz]

    with ThreadPoolExecutor(THREADS) as pool:
        for work in (alone, tracked):
            for i, answers in enumerate(pool.map(work, range(THREADS))):
                for joints in answers:
                    np.testing.assert_allclose(joints, expected[i], atol=0.5)
