"""The settings of `python -m dataloader.synthetic`, and what it does with them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from config import MANY, MAX_WORKERS, check_numbers
from dataloader.synthetic.kinds import KINDS
from util import UserError, pip_install
from util.camera import NYU_CAMERA, Camera


@dataclass
class SyntheticSettings:
    """Settings of this command."""

    out: Path = Path("data/synth")  # folder of the data set; a split is a folder in it
    split: Literal["train", "val", "test", "val_hard"] = "train"  # only val and val_hard share hands
    without: tuple[str, ...] = ()  # kinds of frames to leave out; all: plain gestures alone
    frames: int = 20000  # number of frames, about 17 KB each
    seed: int = 0  # the same seed gives the same bytes, whatever the number of workers
    bank: Path | None = None  # file of hand shapes to draw from; none: the bundled one
    num_workers: int = field(default_factory=lambda: os.cpu_count() or 1)  # processes; one per core
    # Pinhole camera in pixels; NYU's by default. flip: -1 where the labels' y points up, +1 down.
    # The loader reads a split with the camera of its data set's row in config.py, and refuses another.
    camera: Camera = NYU_CAMERA
    width: int = 640  # of a frame, pixels
    height: int = 480  # of a frame, pixels
    sheet: Path | None = None  # also write contact sheets, PNG: 24 frames with skeletons, of each kind

    def resolved(self) -> "SyntheticSettings":
        edge = (64, 10_000)  # pixels; no hand fits in less
        ranges = {"frames": (1, MANY), "num_workers": (1, MAX_WORKERS), "seed": (0, MANY)}
        check_numbers(self, ranges | {"width": edge, "height": edge})
        self.camera.check()
        if self.sheet and self.sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet {self.sheet}: the name of a contact sheet ends with .png.")
        if set(self.without) - {*KINDS, "all"}:
            raise UserError(f"--without {' '.join(self.without)}: kinds are {', '.join(KINDS)}, or all.")
        if self.split == "val_hard" and not self.kinds:
            raise UserError("val_hard has frames of each kind: leave some of them in.")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if not {kind, "all"} & set(self.without))


def write_frames(settings: SyntheticSettings, load_shapes: Callable[[], Any] | None = None) -> None:
    """Write the split and, if wanted, its contact sheets; hands come from `load_shapes`, if given."""
    try:
        from dataloader.synthetic.hand.bank import BUNDLED
        from dataloader.synthetic.writer import SplitSettings, write_split
    except ModuleNotFoundError as error:
        raise UserError(f"The synthetic hand needs {error.name}: {pip_install('synth')}.") from error

    size = settings.height, settings.width
    bank = None if load_shapes else settings.bank or BUNDLED
    drawn = (settings.split, settings.frames, settings.seed, settings.camera, size)
    split = SplitSettings(*drawn, bank, settings.kinds)
    folder = settings.out / settings.split
    if not write_split(split, settings.out, settings.num_workers, load_shapes):
        print(f"{folder} is complete: nothing to do")
    if settings.sheet:
        from dataloader.synthetic.sheet import save_contact_sheets

        for sheet in save_contact_sheets(folder, settings.sheet):
            print(f"contact sheet: {sheet}")
