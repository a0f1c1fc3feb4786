"""Score what others published for NYU or ICVL, all alike: a table and a figure.

python results/comparison.py --dataset nyu --predictions FOLDER --out results/comparison_nyu.md
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script

from config import Config
from dataloader import dataset_info
from dataloader.index import find_frames
from util import UserError
from util.cli import run
from util.files import write_text
from util.metrics import as_markdown, score, score_kinds
from util.plots import save_scores
from util.points import parse_format, read_predictions

# File's name: method, place and year. The files: xinghaochen/awesome-hand-pose-estimation; of A2J
# zhangboshen/A2J, of HandFoldingNet cwc1260/HandFold, of Virtual View iscas3dv/handpose-virtualview; of AWR
# the authors' repository.
METHODS = {
    "hourglass_1": ("AWR hourglass_1", "AAAI 2020"),
    "resnet_18": ("AWR resnet_18", "AAAI 2020"),
    "A2J": ("A2J", "ICCV 2019"),
    "CrossInfoNet": ("CrossInfoNet", "CVPR 2019"),
    "DeepModel": ("DeepModel", "IJCAI 2016"),
    "DeepPrior++": ("DeepPrior++", "ICCVW 2017"),
    "denseReg": ("DenseReg", "CVPR 2018"),
    "FeatureMapping": ("DeepPrior++ with Feature Mapping", "CVPR 2018"),
    "HandFoldingNet": ("HandFoldingNet", "ICCV 2021"),
    "HandPointNet": ("HandPointNet", "CVPR 2018"),
    "LRF": ("LRF", "CVPR 2014"),
    "Point-to-Point": ("Point-to-Point", "ECCV 2018"),
    "Pose_REN": ("Pose-REN", "Neurocomputing 2020"),
    "SRNet": ("SRN", "BMVC 2019"),
    "TriHorn_Net": ("TriHorn-Net", "ESWA 2023"),
    "V2V_PoseNet": ("V2V-PoseNet", "CVPR 2018"),
    "VirtualView_1": ("Virtual View, 1 view", "CVPR 2022"),
    "VirtualView_15": ("Virtual View, 15 views", "CVPR 2022"),
    "VirtualView_25": ("Virtual View, 25 views", "CVPR 2022"),
}


@dataclass
class ComparisonSettings:
    """Settings of this command."""

    predictions: tuple[Path, ...]  # folders of published files, NAME.txt
    dataset: Literal["nyu", "icvl"] = "nyu"  # whose test split they are of
    data_dir: str = "data"  # folder that holds the data sets; labels alone are read
    out: Path = Path("output/comparison.md")  # the table; the figure lies beside it

    def resolved(self) -> "ComparisonSettings":
        """Check the settings."""
        if self.out.suffix != ".md":
            raise UserError(f"--out {self.out}: the table's name ends in .md.")
        return self


def main(settings: ComparisonSettings) -> None:
    """Write the table, the lowest error first, and the figure."""
    config = Config(dataset=settings.dataset, data_dir=settings.data_dir).resolved()
    info, frames = dataset_info(config.dataset), find_frames(config)
    camera, true_xyz, kinds = info.camera, frames.joint_xyz, frames.kinds
    rows, by_kind = {}, {}
    for name, (method, place) in METHODS.items():
        for file in filter(Path.is_file, (folder / f"{name}.txt" for folder in settings.predictions)):
            _, uvd = read_predictions(file, *true_xyz.shape[:2], camera, parse_format("uvd"))
            label, xyz = f"{method} ({place})", camera.uvd_to_xyz(uvd)
            rows[label], by_kind[label] = score(xyz, true_xyz), score_kinds(xyz, true_xyz, kinds)
    if not rows:
        raise UserError(f"No file of a known method is in {', '.join(map(str, settings.predictions))}.")
    if settings.dataset != "nyu":  # differences are to the first row: AWR's, or where it is missing the best
        rows = dict(sorted(rows.items(), key=lambda row: row[1].mpe_mm))
    write_text(settings.out, as_markdown(rows, by_kind))
    save_scores(settings.out.with_suffix(".png"), "comparison", rows, info.joint_names)
    print(f"{len(rows)} methods on {len(true_xyz)} frames. Written to {settings.out} and the .png beside it.")


if __name__ == "__main__":
    run(main, __doc__, ComparisonSettings)
