"""Write synthetic, labelled depth frames of hands in NYU's layout.

python -m dataloader.synthetic --out data/synth --split train --frames 20000 --seed 0 --workers 2
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config import NYU_CAMERA, check_numbers
from util import UserError
from util.camera import Camera
from util.cli import run

SMALLEST_EDGE = 64  # pixels


@dataclass
class SyntheticSettings:
    """Settings of this command."""

    out: Path = Path("data/synth")  # folder of the data set; a split is a folder in it
    split: Literal["train", "val", "test"] = "train"  # hands and poses of one never occur in another
    frames: int = 20000  # number of frames, about 17 KB each
    seed: int = 0  # the same seed gives the same bytes, whatever the number of workers
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)  # processes; one per core
    # Pinhole camera in pixels; NYU's by default. flip: -1 where the labels' y points up, +1 down.
    # The loader reads a split with the camera of its data set's row in config.py, and refuses another.
    camera: Camera = NYU_CAMERA
    width: int = 640  # of a frame, pixels
    height: int = 480  # of a frame, pixels
    sheet: Path | None = None  # also write a contact sheet, a PNG: 24 frames of the split with skeletons

    def resolved(self) -> "SyntheticSettings":
        """Check the settings.

        Raises:
            UserError: in one sentence, for one that cannot work.
        """
        check_numbers(self, ("frames", "workers"), lambda value: value >= 1, "at least 1")
        check_numbers(self, ("seed",), lambda value: value >= 0, "0 or more")
        smallest = f"at least {SMALLEST_EDGE}: no hand fits in less"
        check_numbers(self, ("width", "height"), lambda value: value >= SMALLEST_EDGE, smallest)
        self.camera.check()
        return self


def main(settings: SyntheticSettings) -> None:
    """Write the split and, if wanted, its contact sheet.

    Raises:
        UserError: if a package is missing; see also `write_split`.
    """
    try:
        import anny  # noqa: F401

        from dataloader.synthetic.writer import SplitSettings, write_split
    except ModuleNotFoundError as error:
        raise UserError(
            f"The synthetic hand needs the package {error.name}: pip install -r requirements-synth.txt."
        ) from error

    size = (settings.height, settings.width)
    split = SplitSettings(settings.split, settings.frames, settings.seed, settings.camera, size)
    folder = settings.out / settings.split
    if not write_split(split, settings.out, settings.workers):
        print(f"{folder} is complete: nothing to do")
    if settings.sheet:
        from util.plots import save_contact_sheet

        save_contact_sheet(folder, settings.sheet)
        print(f"contact sheet: {settings.sheet}")


if __name__ == "__main__":
    run(main, __doc__, SyntheticSettings)
