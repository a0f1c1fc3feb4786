"""Write synthetic, labelled depth frames of hands in NYU's layout.

python -m dataloader.synthetic --out data/synth --split train --frames 20000 --seed 0 --workers 2
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from config import NYU_CAMERA, check_numbers
from dataloader.synthetic.kinds import KINDS
from util import UserError
from util.camera import Camera
from util.cli import run

SMALLEST_EDGE = 64  # pixels


@dataclass
class SyntheticSettings:
    """Settings of this command."""

    out: Path = Path("data/synth")  # folder of the data set; a split is a folder in it
    split: Literal["train", "val", "test", "val_hard"] = "train"  # only val and val_hard share hands
    without: str = ""  # kinds of frames to leave out, with commas between; all: plain gestures alone
    frames: int = 20000  # number of frames, about 17 KB each
    seed: int = 0  # the same seed gives the same bytes, whatever the number of workers
    bank: str = ""  # file of hand shapes to draw from; empty: the bundled one; anny: that package
    make_bank: int = 0  # draw so many people from anny and write them to --bank, and no frames
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)  # processes; one per core
    # Pinhole camera in pixels; NYU's by default. flip: -1 where the labels' y points up, +1 down.
    # The loader reads a split with the camera of its data set's row in config.py, and refuses another.
    camera: Camera = NYU_CAMERA
    width: int = 640  # of a frame, pixels
    height: int = 480  # of a frame, pixels
    sheet: Path | None = None  # also write contact sheets, PNG: 24 frames with skeletons, of each kind

    def resolved(self) -> "SyntheticSettings":
        """Check the settings.

        Raises:
            UserError: in one sentence, for one that cannot work.
        """
        check_numbers(self, ("frames", "workers"), lambda value: value >= 1, "at least 1")
        check_numbers(self, ("seed",), lambda value: value >= 0, "0 or more")
        smallest = f"at least {SMALLEST_EDGE}: no hand fits in less"
        check_numbers(self, ("width", "height"), lambda value: value >= SMALLEST_EDGE, smallest)
        check_numbers(self, ("make_bank",), lambda value: value == 0 or value >= 20, "20 or more")
        if self.make_bank and self.bank in ("", "anny"):
            raise UserError("--make_bank writes a file: name it with --bank.")
        if self.make_bank and Path(self.bank).suffix != ".npz":
            raise UserError(f"--bank {self.bank}: the name of a bank ends with .npz.")
        self.camera.check()
        if self.sheet and self.sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet {self.sheet}: the name of a contact sheet ends with .png.")
        unknown = set(filter(None, self.without.split(","))) - {*KINDS, "all"}
        if unknown:
            raise UserError(f"--without {self.without}: kinds are {', '.join(KINDS)}, or all.")
        if self.split == "val_hard" and not self.kinds:
            raise UserError("val_hard has frames of each kind: leave some of them in.")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of frames that are drawn."""
        left_out = self.without.split(",")
        return () if "all" in left_out else tuple(kind for kind in KINDS if kind not in left_out)


def main(settings: SyntheticSettings) -> None:
    """Write the split and, if wanted, its contact sheet.

    Raises:
        UserError: if a package is missing; see also `write_split`.
    """
    try:
        if settings.make_bank:
            make_bank(settings)
            return
        from dataloader.synthetic.hand.bank import BUNDLED
        from dataloader.synthetic.writer import SplitSettings, write_split

        size, bank = (settings.height, settings.width), settings.bank or str(BUNDLED)
        split = SplitSettings(
            settings.split, settings.frames, settings.seed, settings.camera, size, bank, settings.kinds
        )
        written = write_split(split, settings.out, settings.workers)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        needs = "anny" if package == "anny" else "synth"
        raise UserError(
            f"The synthetic hand needs the package {package}: pip install -r requirements-{needs}.txt."
        ) from error

    folder = settings.out / settings.split
    if not written:
        print(f"{folder} is complete: nothing to do")
    if settings.sheet:
        from util.plots import save_contact_sheets

        for sheet in save_contact_sheets(folder, settings.sheet):
            print(f"contact sheet: {sheet}")


def make_bank(settings: SyntheticSettings) -> None:
    """Draw people from anny and write them to a bank."""
    from dataloader.synthetic.hand.bank import write_bank
    from dataloader.synthetic.writer import ANNY, load_shapes

    path = Path(settings.bank)
    if path.exists():
        raise UserError(f"{path} exists: delete it, or give another --bank.")
    write_bank(path, load_shapes(ANNY), settings.make_bank, settings.seed)
    print(f"{settings.make_bank} people, {path.stat().st_size / 1e6:.2f} MB, in {path}")


if __name__ == "__main__":
    run(main, __doc__, SyntheticSettings)
