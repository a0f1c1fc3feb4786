"""`pip install .`: the project as a package `awr`.

The project's modules have short names (`config`, `util`, …) that would collide with a user's own. So the
build copies them to `awr/` and rewrites their imports of one another, as vendoring tools do.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MODULES = ("config", "model", "dataloader", "util", "test", "train", "demo")
WEIGHTS = "hourglass_1_synth.pth"  # found without being named; resnet_18's are three times as large
BANK = "dataloader/synthetic/hand/bank.npz"  # of hand shapes
EXTRAS = {"openvino": "deploy", "synth": "synth", "anny": "anny synth", "demo": "demo", "dev": "dev"}
IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(MODULES)})\b(?=[. ])", re.MULTILINE)
COMMAND = re.compile(r"python -m (dataloader|util)\b")
PACKAGE = '''"""AWR: adaptive weighting regression for 3D hand pose from a depth frame.

    from awr import Camera, HandPosePredictor

    predictor = HandPosePredictor()  # the weights that come with the package
    pose = predictor.predict(depth, Camera(fx=475, fy=475, cx=320, cy=240))  # depth: (H, W), mm
"""

from importlib import import_module

__version__ = "{version}"
_PLACES = {{
    "Camera": "util.camera",
    "HandPose": "util.inference.predictor",
    "HandPosePredictor": "util.inference.predictor",
    "HandTracker": "util.inference.tracker",
    "UserError": "util",
}}
__all__ = ["__version__", *_PLACES]


def __getattr__(name):  # PyTorch is imported when something needs it
    if name not in _PLACES:
        raise AttributeError(f"module 'awr' has no attribute {{name!r}}")
    return getattr(import_module(f"awr.{{_PLACES[name]}}"), name)
'''


def requirements(name: str) -> list[str]:
    """The lines of a requirements file, without comments and references to another."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def version() -> str:
    """VERSION of config.py, which cannot be imported before the requirements are installed."""
    return re.search(r'^VERSION = "(.+?)"', (ROOT / "config.py").read_text(), re.MULTILINE)[1]


class BuildUnderOneName(build_py):
    """Writes `awr/` into the build folder."""

    def run(self) -> None:
        if self.editable_mode:
            raise SystemExit("awr cannot be installed with -e: its files are copied. Use pip install .")
        package = Path(self.build_lib, "awr")
        shutil.rmtree(package, ignore_errors=True)
        for module in MODULES:
            for source in [ROOT / f"{module}.py", *(ROOT / module).rglob("*.py")]:
                if source.is_file():
                    target = package / source.relative_to(ROOT)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    text = IMPORT.sub(r"\1\2 awr.\3", source.read_text(encoding="utf-8"))
                    target.write_text(COMMAND.sub(r"python -m awr.\1", text), encoding="utf-8")
        (package / "__init__.py").write_text(PACKAGE.format(version=version()), encoding="utf-8")
        shutil.copy(ROOT / BANK, package / BANK)
        (package / "results").mkdir()
        shutil.copy(ROOT / "results" / WEIGHTS, package / "results")


setup(
    name="awr",
    version=version(),
    description="Adaptive weighting regression for 3D hand pose estimation from a single depth image",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["awr"],
    package_dir={"awr": "util"},  # any folder that is there: BuildUnderOneName writes the files
    install_requires=requirements("requirements.txt"),
    extras_require={
        extra: [line for name in names.split() for line in requirements(f"requirements-{name}.txt")]
        for extra, names in EXTRAS.items()
    },
    cmdclass={"build_py": BuildUnderOneName},
)
