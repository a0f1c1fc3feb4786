"""Writes a split of synthetic frames in NYU's layout: in chunks, by several processes, resumable.

out/{split}/depth_1_%07d.png          from 1; depth mm = green * 256 + blue
out/{split}/joint_data.mat            joint_uvd, joint_xyz (3, N, 36, 3) float32; NaN but camera 0's 14
out/{split}/joints21.npz              xyz (N, 21, 3) float32 mm: wrist, then each finger, base to tip
out/{split}/kinds.txt                 the kinds of each frame, a line per frame, where there are any
out/{split}/generator.json            what made it
out/center_{split}_refined.txt        x y z in mm, a line per frame
"""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io
import torch
from tqdm import tqdm

from dataloader.dataset import init_worker
from dataloader.nyu import FRAME_NAME, KINDS_FILE
from dataloader.synthetic.hand.bank import BUNDLED, HandBank, Shapes
from dataloader.synthetic.hand.skeleton import HandShape
from dataloader.synthetic.kinds import KINDS_VERSION, PLAIN, draw_kinds
from dataloader.synthetic.scene import Scene, sample_scene
from util import UserError
from util.camera import Camera
from util.files import atomic_write, locked_folder, read_json, remove_leftovers, sha256, write_table

SPLITS = ("train", "val", "test", "val_hard")
HARD = SPLITS[3]  # every frame is of one kind, all in turn
_GENERATOR_VERSION = 1  # raise it when the same seed gives other frames
_CHUNK = 40
_PEOPLE = 5  # in a chunk: a new hand costs half as much time as a frame
_PARTS = "parts"  # folder of the labels of the chunks that are done
_LABELS = ("joints36", "joints21", "center")  # of a Scene, as a chunk's file keeps them
_MAT_HEADER = b"MATLAB 5.0 MAT-file, AWR synthetic hands"


class SplitSettings(NamedTuple):
    """What determines every byte of a split; `bank`: file of hand shapes, None: they are drawn from anny by
    results/make_bank.py; `kinds`: see kinds.py."""

    split: str
    frames: int
    seed: int
    camera: Camera
    size: tuple[int, int]
    bank: Path | None = BUNDLED
    kinds: tuple[str, ...] = ()


def sample_frame(settings: SplitSettings, frame: int, person: HandShape) -> Scene:
    """Frame number `frame` (from 0) of a split, whatever was drawn before it."""
    kinds = kinds_of(settings, frame)
    return sample_scene(_generator(settings, frame), person, settings.camera, settings.size, kinds)


def kinds_of(settings: SplitSettings, frame: int) -> tuple[str, ...]:
    """The kinds of a frame."""
    if settings.split == HARD:
        return (settings.kinds[frame % len(settings.kinds)],)
    return draw_kinds(_generator(settings, frame, 2), settings.kinds)


def sample_person(shapes: Shapes, settings: SplitSettings, person: int) -> HandShape:
    """The hand of person number `person` of a split."""
    return shapes.sample_shape(_generator(settings, person, 1))


def _generator(settings: SplitSettings, *stream: int) -> np.random.Generator:
    """A split's generator for one frame, person or frame's kinds, which shares no numbers with the others."""
    return np.random.default_rng([settings.seed, SPLITS.index(settings.split), *stream])


def write_split(
    settings: SplitSettings, out: Path, workers: int, load_shapes: Callable[[], Shapes] | None = None
) -> bool:
    """Write a split, or what is missing of it, into the data set's folder `out`, by so many processes.

    Hands come from `load_shapes` if the settings name no bank. Returns whether anything had to be written.
    """
    folder = out / settings.split
    if _is_complete(settings, folder):
        return False
    chunks = range(-(-settings.frames // _CHUNK))
    todo = [chunk for chunk in chunks if not _part_file(folder, chunk).exists()]
    frames = sum(len(_frames_of(settings, chunk)) for chunk in todo)
    # Before the first file: the bank may be missing.
    shapes = HandBank(settings.bank, settings.split) if settings.bank else load_shapes()
    with locked_folder(folder):
        remove_leftovers(folder)
        _write_record(settings, folder, complete=False)
        (folder / _PARTS).mkdir(exist_ok=True)
        with tqdm(total=settings.frames, initial=settings.frames - frames, unit="frame") as bar:
            for written in _write_chunks(settings, folder, todo, shapes, min(workers, len(todo))):
                bar.update(written)
        _assemble(settings, out, folder, len(chunks))
    return True


def _is_complete(settings: SplitSettings, folder: Path) -> bool:
    """Whether the split is there already, made with these settings; UserError if it was made with others."""
    record_file = folder / "generator.json"
    if not record_file.exists():
        if any(folder.glob("[!.]*")):
            raise UserError(f"{folder} holds files that this command did not make: give another --out.")
        return False
    found = read_json(record_file)
    expected = {"bank": None, "kinds": None} | _record_of(settings)
    changed = {key: value for key, value in expected.items() if found.get(key) != value}
    if changed:
        changes = "; ".join(f"{key} {found.get(key)}, now {value}" for key, value in changed.items())
        raise UserError(f"{folder} was made with other settings ({changes}): delete it or change --out.")
    return bool(found.get("complete"))


def _record_of(settings: SplitSettings) -> dict:
    """Settings as they are kept in generator.json."""
    plain = {"camera": settings.camera._asdict(), "size": list(settings.size)}
    record = {"version": _GENERATOR_VERSION} | settings._asdict() | plain
    bank, kinds = record.pop("bank"), list(record.pop("kinds"))
    # By its content. What was drawn from anny names no bank and what has no kinds none, as older splits.
    record |= {"bank": sha256(bank)} if bank else {}
    return record | ({"kinds": kinds, "kinds_version": KINDS_VERSION} if kinds else {})


def _write_record(settings: SplitSettings, folder: Path, complete: bool) -> None:
    libraries = {"embreex": version("embreex"), "numpy": np.__version__, "opencv": cv2.__version__}
    if settings.bank is None:
        libraries |= {"anny": version("anny"), "torch": torch.__version__}
    record = _record_of(settings) | {"libraries": libraries, "complete": complete}
    with atomic_write(folder / "generator.json") as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n")


def _write_chunks(
    settings: SplitSettings, folder: Path, chunks: list[int], shapes: Shapes, workers: int
) -> Iterator[int]:
    """Write chunks, in this process or in several; yields each one's number of frames as it is done."""
    # This process draws the people: to load anny takes a worker longer than to write a thousand frames.
    numbers = ((chunk, range(chunk * _PEOPLE, (chunk + 1) * _PEOPLE)) for chunk in chunks)
    tasks = ((chunk, [sample_person(shapes, settings, i) for i in own]) for chunk, own in numbers)
    write = partial(_write_chunk, settings, folder)
    if workers < 2:
        yield from map(write, tasks)
        return
    # Not forked: OpenCV has threads by now. A worker that Ctrl-C ends while it waits would hold the pool's
    # lock for good: `init_worker` keeps it from them, once they have started.
    with multiprocessing.get_context("spawn").Pool(workers, init_worker, (0,)) as pool:
        # A task is larger than what its pipes hold: no more are drawn than workers take.
        yield from pool.imap_unordered(write, tasks)


def _write_chunk(settings: SplitSettings, folder: Path, task: tuple[int, list[HandShape]]) -> int:
    """Write a chunk's frames and then its labels, which mark it as done. Returns its number of frames."""
    chunk, people = task
    scenes = []
    for i, frame in enumerate(_frames_of(settings, chunk)):
        scene = sample_frame(settings, frame, people[i * _PEOPLE // _CHUNK])
        with atomic_write(folder / FRAME_NAME.format(frame + 1)) as unfinished:
            unfinished.write_bytes(encode_depth(scene.depth))
        scenes.append(scene)
    labels = {name: np.stack([getattr(scene, name) for scene in scenes]) for name in _LABELS}
    with atomic_write(_part_file(folder, chunk)) as unfinished:
        np.savez(unfinished, **labels)
    return len(scenes)


def encode_depth(depth: np.ndarray) -> bytes:
    """A PNG of depth (H, W) uint16 mm as NYU stores it: blue the low byte, green the high one, red 0."""
    image = np.stack([depth & 255, depth >> 8, np.zeros_like(depth)], -1).astype(np.uint8)
    # Unfiltered rows: half the time of OpenCV's choice and no larger.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", image, options)[1].tobytes()


def _assemble(settings: SplitSettings, out: Path, folder: Path, chunks: int) -> None:
    """Join the chunks' labels into the split's files."""
    parts = []
    for chunk in range(chunks):
        with np.load(_part_file(folder, chunk)) as part:  # closed again: a large split has thousands
            parts.append([part[name] for name in _LABELS])
    joints36, joints21, center = map(np.concatenate, zip(*parts, strict=True))
    slots = np.full((2, 3, *joints36.shape), np.nan, np.float32)
    slots[:, 0] = settings.camera.xyz_to_uvd(joints36), joints36
    with atomic_write(folder / "joint_data.mat") as unfinished:
        scipy.io.savemat(unfinished, {"joint_uvd": slots[0], "joint_xyz": slots[1]}, do_compression=True)
        with unfinished.open("r+b") as file:
            # SciPy writes the time of day here; the same seed gives the same bytes.
            file.write(_MAT_HEADER.ljust(116))
    with atomic_write(folder / "joints21.npz") as unfinished:
        np.savez_compressed(unfinished, xyz=joints21.astype(np.float32))
    write_table(out / f"center_{settings.split}_refined.txt", center)
    if settings.kinds:
        lines = [" ".join(kinds_of(settings, i)) or PLAIN for i in range(settings.frames)]
        with atomic_write(folder / KINDS_FILE) as unfinished:
            unfinished.write_text("\n".join(lines) + "\n")
    _write_record(settings, folder, complete=True)
    shutil.rmtree(folder / _PARTS)


def _frames_of(settings: SplitSettings, chunk: int) -> range:
    return range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, settings.frames))


def _part_file(folder: Path, chunk: int) -> Path:
    return folder / _PARTS / f"{chunk:06d}.npz"
