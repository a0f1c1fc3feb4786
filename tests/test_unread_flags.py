"""A setting that was passed and had no effect is named; one that had an effect is not, in any command."""

import re

import pytest

from tests.helpers.bundled import write_bundled
from tests.helpers.project import PROJECT, need_synthetic_hand
from tests.helpers.sphere_hands import write_sphere_hands
from util.cli import parse_settings, unread_settings_named
from util.demo.settings import GROUPS, DemoSettings
from util.demo.sources import open_source

WEIGHTS = str(PROJECT / "results" / "hourglass_1_synth.pth")
FRAME = str(PROJECT / "data" / "synth" / "test" / "depth_1_0000001.png")
TEST = "test.py --data_dir {d} --output_dir {o}"
TRAIN = "train.py --data_dir {d}/small --output_dir {o} --net hourglass_1 --img_size 32 --batch_size 2"
EXPORT = "util.deployment.export --load_model {w}"
CENTERS = (
    "util.inference.centers --data_dir {d} --out {o}/c.txt --json {o}/c.json --split test --dataset synth"
)
DEMO = "demo.py --json {o}/a.jsonl --device cpu --hands 1 --handedness auto --min_confidence 0.3"
EXPERIMENTS = "util.experiments --output_dir {o} --dataset synth --device cpu"

# Flags with an effect | flags without.
COMMANDS = {
    "test a network": TEST
    + " --load_model {w} --net hourglass_1 --downsample 2 --kernel_size 0.4 --img_size 128"
    " --cube 300 300 300 --centers_format xyz --sensor 0.1 --batch_size 2 --device cpu --precision fp32"
    " --seed 3"
    " --split test --centers {d}/synth/center_test_refined.txt --backend torch --num_workers 0 --per_joint"
    " --figures svg"
    " | --test_subject 3 --predictions_format uvd --setup s1",
    "test predictions": TEST
    + " --predictions {d}/p.txt --predictions_format uvd --dataset synth | --load_model {w}"
    " --net hourglass_1 --centers {d}/synth/center_test_refined.txt --backend compile --precision bf16"
    " --device cuda:3 --num_workers 3 --test_subject 3",
    "train with everything": TRAIN + " --num_workers 1 --max_epoch 2 --recipe ours --augment_para 10 0.1 30"
    " --rotation both --cache --optimizer adamw --lr 1e-4 --weight_decay 0.01 --scheduler plateau"
    " --patience 2"
    " --warmup_epochs 0.1 --dense_weight 3 --coord_weight 2 --clip_grad 1 --ema 0.5 --val_split val --seed 4"
    " --dense_epochs 1 --bn_batches 1 --save_minutes 3 --log_every 2 --resume --precision fp32 --device cpu"
    " --kernel_size 0.5 --downsample 2 --cube 250 250 250 --sensor 0.2 --centers_format xyz --no_compile | ",
    "train along a cosine": TRAIN
    + " --max_epoch 1 --num_workers 0 --scheduler cosine --load_model {w} --freeze pre"
    " | --step 5 --patience 5 --bn_batches 4 --test_subject 3",
    "train in steps": TRAIN + " --max_epoch 1 --num_workers 0 --step 5 | --patience 2",
    "export weights": EXPORT
    + " --out {o}/a.pth --dataset synth --net hourglass_1 --downsample 2 --kernel_size 0.4"
    " --img_size 128 --cube 300 300 300 --precision fp32 | --opset 17 --data_dir {d}",
    "centres of labels": CENTERS + " --method labels | --depth_range 100 1400 --num_workers 2 --device cpu"
    " --load_model {w} --test_subject 4",
    "centres of depth": CENTERS + " --method depth --depth_range 100 1400 --num_workers 2 | --device cpu"
    " --load_model {w}",
    "centres refined": CENTERS + " --method refined --depth_range 100 1400 --num_workers 1 --device cpu"
    " --load_model {w} | --test_subject 1",
    "demo of a file": DEMO
    + " --source {f} --camera nyu --depth_scale 1 --depth_range 100 1400 --no_denoise --fps 9"
    " --frames 1 --strict --track True --smooth --net hourglass_1 --dataset synth --backend torch"
    " --precision fp32"
    " | --port 8081 --seed 3 --leaves --body --weights",
    "demo of a file in pictures": DEMO
    + " --source {f} --save {o}/s.png --weights --load_model {w} | --port 9000",
    "demo of a rendered hand": DEMO
    + " --source synthetic --camera kinect2 --frames 1 --seed 3 --leaves --body"
    " --load_model {w} | --depth_scale 2 --fps 20",
    "an experiment that scores": EXPERIMENTS
    + " aggregation --data_dir {d} --nets hourglass_1 --frames 2 --num_workers 0"
    " | --img_size 64 --crops 20 --seeds 2 --scale full",
    "an experiment that trains": EXPERIMENTS
    + " rotation --data_dir {d}/small --img_size 32 --crops 12 --seeds 1"
    " --num_workers 0 --scale small | --frames 3 --nets resnet_50",
    "frames": "dataloader.synthetic --out {o} --split val --frames 2 --seed 5 --num_workers 1 --without hands"
    " --width 320 --height 240 --camera.fx 240 --camera.fy 240 --camera.cx 160 --camera.cy=120 | ",
    "a cache": "dataloader.cache --data_dir {d} --dataset synth --split test --img_size 32 --cube 200 200 200"
    " --centers_format xyz --num_workers 0 | --test_subject 2",
    "a benchmark of an engine": "util.benchmark --rows frame_hourglass_1_torch_fp32 --nets hourglass_1"
    " --repeats 1 --json {o}/b.json --data_dir {d} --dataset synth --device cpu --load_model {w}"
    " | --batch_size 2 --precision bf16",
    "a benchmark of training": "util.benchmark --rows train --nets hourglass_1 --repeats 1 --json {o}/b.json"
    " --data_dir {d} --device cpu --batch_size 2 --precision fp32 --no_compile | ",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Few frames to score, as a data set and as predictions; and fewer small ones to train on."""
    root = tmp_path_factory.mktemp("data")
    write_bundled(root / "synth", 3)
    for seed, (split, count) in enumerate({"train": 6, "val": 3, "test": 3}.items()):
        write_sphere_hands(root / "small" / "synth", split, count, seed)
    (root / "p.txt").write_text(("300 200 700 " * 14 + "\n") * 3)
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_what_had_no_effect_is_named_and_nothing_else(name, data, tmp_path, succeeds):
    if "synthetic" in COMMANDS[name]:
        need_synthetic_hand()
    places = {"d": data, "o": tmp_path, "w": WEIGHTS, "f": FRAME}
    used, unused = (part.format(**places) for part in COMMANDS[name].split(" | "))
    ran = succeeds(*used.split(), *unused.split())
    said = re.findall(r"warning: --(\w+) has no effect here\.\n", ran.err)
    assert sorted(said) == sorted(re.findall(r"--(\w+)", unused))


def test_a_realsense_knows_its_camera(capsys):
    arguments = [
        "--json",
        "a",
        "--source",
        "realsense",
        "--camera",
        "nyu",
        "--depth_scale",
        "2",
        "--fps",
        "9",
    ]
    settings = parse_settings(arguments, "", DemoSettings, GROUPS)
    with unread_settings_named(settings, arguments[4:]), pytest.raises(ValueError, match="realsense"):
        open_source("realsense", settings.resolved())
    said = re.findall(r"warning: --(\w+) has no effect here\.\n", capsys.readouterr().err)
    assert said == ["camera", "depth_scale", "fps"]
