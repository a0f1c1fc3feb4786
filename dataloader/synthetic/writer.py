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
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import scipy.io
import torch
from tqdm import tqdm

from dataloader.base import init_worker
from dataloader.nyu import FRAME_NAME, KINDS_FILE
from dataloader.synthetic.hand.bank import BUNDLED, HandBank, Shapes
from dataloader.synthetic.hand.skeleton import HandShape
from dataloader.synthetic.kinds import KINDS_VERSION, PLAIN, draw_kinds
from dataloader.synthetic.scene import Scene, sample_scene
from dataloader.synthetic.variety import sample_varied_scene
from util import UserError
from util.camera import Camera
from util.files import atomic_write, locked_folder, read_json, remove_leftovers, sha256, write_table

SPLITS = ("train", "val", "test", "val_hard")
HARD = SPLITS[3]  # every frame is of one kind, all in turn
_GENERATOR_VERSION = 1  # raise it when the same seed gives other frames
_CHUNK = 40
# Consecutive frames of one person: a new hand costs half as much time as a frame. Divides the chunk.
_FRAMES_PER_PERSON = 8
_BYTES_PER_FRAME = 17_000  # mean PNG and labels of a 640 x 480 frame
_PARTS = "parts"  # folder of the labels of the chunks that are done
_LABELS = ("joints36", "joints21", "center")  # of a Scene, as a chunk's file keeps them
_MAT_HEADER = b"MATLAB 5.0 MAT-file, AWR synthetic hands"


ANNY = "anny"  # in place of a bank's path: shapes are drawn from that package


class SplitSettings(NamedTuple):
    """What determines every byte of a split; `bank`: file of hand shapes, or ANNY; `kinds`: see kinds.py."""

    split: str
    frames: int
    seed: int
    camera: Camera
    size: tuple[int, int]
    bank: str = str(BUNDLED)
    kinds: tuple[str, ...] = ()


def sample_frame(settings: SplitSettings, frame: int, person: HandShape) -> Scene:
    """Frame number `frame` (from 0) of a split, whatever was drawn before it."""
    rng = np.random.default_rng([settings.seed, SPLITS.index(settings.split), frame])
    kinds = kinds_of(settings, frame)
    if not kinds:
        return sample_scene(rng, person, settings.camera, settings.size)
    return sample_varied_scene(rng, person, settings.camera, settings.size, kinds)


def kinds_of(settings: SplitSettings, frame: int) -> tuple[str, ...]:
    """The kinds of a frame; their stream is none of the frames'."""
    if settings.split == HARD:
        return (settings.kinds[frame % len(settings.kinds)],)
    rng = np.random.default_rng([settings.seed, SPLITS.index(settings.split), frame, 2])
    return draw_kinds(rng, settings.kinds)


def sample_person(shapes: Shapes, settings: SplitSettings, person: int) -> HandShape:
    """The hand of person number `person` of a split; its stream is none of the frames'."""
    return shapes.sample_shape(
        np.random.default_rng([settings.seed, SPLITS.index(settings.split), person, 1])
    )


def write_split(settings: SplitSettings, out: Path, workers: int) -> bool:
    """Write a split, or what is missing of it.

    Returns:
        whether anything had to be written.

    Raises:
        UserError: the split was begun with other settings, another process writes it, or the disk is too
            small.
    """
    folder = out / settings.split
    if _is_complete(settings, folder):
        return False
    chunks = range(-(-settings.frames // _CHUNK))
    todo = [chunk for chunk in chunks if not _part_file(folder, chunk).exists()]
    frames = sum(len(_frames_of(settings, chunk)) for chunk in todo)
    _check_disk(out, frames, settings.size)
    shapes = load_shapes(settings.bank, settings.split)  # before the first file: it may be missing
    start = time.perf_counter()
    with locked_folder(folder):
        remove_leftovers(folder)
        _write_record(settings, folder, complete=False)
        (folder / _PARTS).mkdir(exist_ok=True)
        with tqdm(total=settings.frames, initial=settings.frames - frames, unit="frame") as bar:
            for written in _write_chunks(_tasks(shapes, settings, folder, todo), min(workers, len(todo))):
                bar.update(written)
        _assemble(settings, out, folder, len(chunks))
    seconds = time.perf_counter() - start
    print(f"{frames} frames in {seconds:.0f} s, {frames / seconds:.1f} frames/s")
    return True


def load_shapes(bank: str = str(BUNDLED), split: str = "train") -> Shapes:
    """A split's people in a bank; or with ANNY that model, which says so before its one long wait.

    Raises:
        FileNotFoundError, UserError: see `HandBank`.
        ModuleNotFoundError: if anny is needed and missing.
    """
    if bank != ANNY:
        return HandBank(Path(bank), split)
    from anny.paths import get_anny_cache_path

    from dataloader.synthetic.hand.shape import HandModel

    cache = get_anny_cache_path()
    if not cache.exists():
        print(f"building anny's cache in {cache}, once on this machine: about two minutes", flush=True)
    return HandModel()


def _is_complete(settings: SplitSettings, folder: Path) -> bool:
    """Whether the split is there already, made with these settings; UserError if it was made with others."""
    record_file = folder / "generator.json"
    if not record_file.exists():
        if folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} holds files that this command did not make: give another --out.")
        return False
    found = read_json(record_file)
    changes = "; ".join(
        f"{key} {found.get(key)}, now {value}"
        for key, value in ({"bank": None, "kinds": None} | _record_of(settings)).items()
        if found.get(key) != value
    )
    if changes:
        raise UserError(
            f"{folder} was made with other settings ({changes}): delete it or give another --out."
        )
    return bool(found.get("complete"))


def _record_of(settings: SplitSettings) -> dict:
    """Settings as they are kept in generator.json."""
    plain = {"camera": settings.camera._asdict(), "size": list(settings.size)}
    record = {"version": _GENERATOR_VERSION} | settings._asdict() | plain
    bank, kinds = record.pop("bank"), list(record.pop("kinds"))
    # By its content. What was drawn from anny names no bank and what has no kinds none, as older splits.
    record |= {} if bank == ANNY else {"bank": sha256(Path(bank))}
    return record | ({"kinds": kinds, "kinds_version": KINDS_VERSION} if kinds else {})


def _write_record(settings: SplitSettings, folder: Path, complete: bool) -> None:
    libraries = {"embreex": version("embreex"), "numpy": np.__version__, "opencv": cv2.__version__}
    if settings.bank == ANNY:
        libraries |= {"anny": version("anny"), "torch": torch.__version__}
    record = _record_of(settings) | {"libraries": libraries, "complete": complete}
    with atomic_write(folder / "generator.json") as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n")


def _check_disk(out: Path, frames: int, size: tuple[int, int]) -> None:
    """Announce the room that the frames need; refuse where the disk has less."""
    need = frames * _BYTES_PER_FRAME * (size[0] * size[1]) / (480 * 640)
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    print(f"{frames} frames need about {need / 1e6:.0f} MB in {out} ({free / 1e6:.0f} MB free)", flush=True)
    if need > 0.95 * free:
        raise UserError(
            f"{out} has {free / 1e6:.0f} MB free, {frames} frames need about {need / 1e6:.0f} MB: "
            "ask for fewer --frames or give an --out on another disk."
        )


class _Task(NamedTuple):
    """A chunk of frames, and the people in it.

    The main process draws them: to load anny takes a worker longer than to write a thousand frames.
    """

    settings: SplitSettings
    folder: Path
    chunk: int
    people: list[HandShape]


def _tasks(shapes: Shapes, settings: SplitSettings, folder: Path, chunks: list[int]) -> Iterator[_Task]:
    for chunk in chunks:
        frames = _frames_of(settings, chunk)
        people = range(frames[0] // _FRAMES_PER_PERSON, frames[-1] // _FRAMES_PER_PERSON + 1)
        yield _Task(settings, folder, chunk, [sample_person(shapes, settings, person) for person in people])


def _write_chunks(tasks: Iterator[_Task], workers: int) -> Iterator[int]:
    """Write chunks, in this process or in several; yields each one's number of frames as it is done."""
    # More threads would only compete with the workers, and may round differently.
    torch.set_num_threads(1)
    if workers < 2:
        yield from map(_write_chunk, tasks)
        return
    # Workers inherit that Ctrl-C is for this process to answer.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not forked: torch and OpenCV have threads by now.
    pool = multiprocessing.get_context("spawn").Pool(workers, _begin_worker)
    signal.signal(signal.SIGINT, interrupt)
    with pool:  # a task is larger than what its pipes hold: no more are drawn than workers take
        yield from pool.imap_unordered(_write_chunk, tasks)


def _begin_worker() -> None:
    # In a group of its own: one that a signal ends while it waits would hold the pool's lock for good.
    init_worker(0)
    torch.set_num_threads(1)


def _write_chunk(task: _Task) -> int:
    """Write a chunk's frames and then its labels, which mark it as done. Returns its number of frames."""
    settings, folder, chunk, people = task
    scenes = []
    for i, frame in enumerate(_frames_of(settings, chunk)):
        scene = sample_frame(settings, frame, people[i // _FRAMES_PER_PERSON])
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
