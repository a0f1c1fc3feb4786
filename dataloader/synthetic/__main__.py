"""Write synthetic, labelled depth frames of hands in NYU's layout.

python -m dataloader.synthetic --out data/synth --split train --frames 20000 --seed 0 --workers 2
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from config import NYU_CAMERA
from util.camera import Camera
from util.cli import run

SMALLEST_EDGE = 64  # pixels


@dataclass(frozen=True)
class Arguments:
    """Write synthetic, labelled depth frames of hands in NYU's layout."""

    out: Path = Path("data/synth")
    """Folder of the data set; a split is a folder in it."""
    split: Literal["train", "val", "test"] = "train"
    """Hands and poses of one split never occur in another."""
    frames: int = 20000
    """Number of frames, about 17 KB each."""
    seed: int = 0
    """The same seed gives the same bytes, whatever the number of workers."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes; one per core."""
    camera: Camera = NYU_CAMERA
    """Pinhole camera in pixels; NYU's by default. flip: -1 where the labels' y points up, +1 down.
    The loader reads a split with the camera of its data set's row in config.py, and refuses another."""
    width: int = 640
    """Frame width, pixels."""
    height: int = 480
    """Frame height, pixels."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write a contact sheet: 24 frames of the split with their skeletons, as PNG."""

    def resolved(self) -> "Arguments":
        """Check what was asked for.

        Raises:
            ValueError: in one sentence.
        """
        if self.frames < 1 or self.workers < 1 or self.seed < 0:
            raise ValueError("--frames and --workers must be at least 1, --seed at least 0.")
        if min(self.width, self.height) < SMALLEST_EDGE:
            raise ValueError(f"--width and --height must be at least {SMALLEST_EDGE}: no hand fits in less.")
        self.camera.check()
        return self


def main(arguments: Arguments) -> None:
    """Write the split and, where asked for, its contact sheet."""
    try:
        import anny  # noqa: F401

        from dataloader.synthetic.sheet import write_sheet
        from dataloader.synthetic.writer import SplitSettings, write_split
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The synthetic hand needs the package {error.name}: pip install -r requirements-synth.txt."
        ) from error

    size = (arguments.height, arguments.width)
    settings = SplitSettings(arguments.split, arguments.frames, arguments.seed, arguments.camera, size)
    folder = arguments.out / arguments.split
    if not write_split(settings, arguments.out, arguments.workers):
        print(f"{folder} is complete: nothing to do")
    if arguments.sheet:
        write_sheet(folder, arguments.sheet)
        print(f"contact sheet: {arguments.sheet}")


if __name__ == "__main__":
    run(main, Arguments.__doc__, Arguments)
