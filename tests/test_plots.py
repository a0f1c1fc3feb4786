"""Figures: what they draw of the records that they are given."""

import pytest

from config import DATASETS
from dataloader import dataset_info
from util import plots


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draw training curves: {label of the y axis: {label of the curve: (epochs, values)}}."""

    def draw(steps, validations=()):
        figures = []
        monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
        plots.save_training_curves(tmp_path / "curves.png", steps, list(validations))
        return {
            axes.get_ylabel(): {
                line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
            }
            for axes in figures[0].axes
        }

    return draw


def test_every_term_of_the_log_is_a_curve(panels):
    assert panels([])["weighted loss"] == {"loss": ([], [])}
    common = {"step": 1, "lr": 1e-3, "mpe_mm": 20.0, "images_per_s": 50.0}
    steps = [{"epoch": e, "loss": 3.0 - e, "dense": 2.0 - e, "bone": 1.0, **common} for e in (0.5, 1.0)]
    steps[1]["late"] = 0.5
    drawn = panels(steps, [{"epoch": 1, "step": 1, "val_mpe_mm": 21.0}])
    assert drawn["weighted loss"] == {"loss": ([0.5, 1.0], [2.5, 2.0])}
    terms = {"dense": ([0.5, 1.0], [1.5, 1.0]), "bone": ([0.5, 1.0], [1.0, 1.0]), "late": ([1.0], [0.5])}
    assert drawn["loss terms before weighting"] == terms
    assert drawn["MPE (mm)"] == {"training": ([0.5, 1.0], [20.0, 20.0]), "validation": ([1.0], [21.0])}


def test_every_chain_has_the_name_of_its_finger():
    for dataset in DATASETS:
        info = dataset_info(dataset)
        names = plots.chain_names(info.joint_names, info.chains)
        assert names[:5] == ["pinky", "ring", "middle", "index", "thumb"]
        assert names[5:] in (["wrist"], ["palm"])
