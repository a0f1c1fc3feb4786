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
WEIGHTS = "results/hourglass_1_synth.pth"  # found without being named; resnet_18's are three times as large
BANK = "dataloader/synthetic/hand/bank.npz"  # of hand shapes
EXTRAS = ("deploy", "synth", "anny", "demo", "dev")  # of requirements-<extra>.txt
# config.py cannot be imported before the requirements are installed.
VERSION = re.search(r'^VERSION = "(.+?)"', (ROOT / "config.py").read_text(), re.MULTILINE)[1]
IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(MODULES)})\b(?=[. ])", re.MULTILINE)
COMMAND = re.compile(r"python (?:-m (?=dataloader|util)|(?=(?:test|train|demo)\.py))(\w+)(?:\.py\b)?")
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
    """The lines of a requirements file and of those that it refers to, without comments."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    parts = (requirements(line[3:]) if line.startswith("-r ") else [line] for line in lines if line)
    return [line for part in parts for line in part]


def sources() -> list[Path]:
    """The project's modules, below ROOT."""
    found = [path for name in MODULES for path in (ROOT / f"{name}.py", *(ROOT / name).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in found if path.is_file()]


class BuildUnderOneName(build_py):
    """Writes `awr/` into the build folder."""

    def run(self) -> None:
        if self.editable_mode:
            raise SystemExit("awr cannot be installed with -e: its files are copied. Use pip install .")
        package = Path(self.build_lib, "awr")
        shutil.rmtree(package, ignore_errors=True)
        for source in sources():
            (package / source).parent.mkdir(parents=True, exist_ok=True)
            text = IMPORT.sub(r"\1\2 awr.\3", (ROOT / source).read_text(encoding="utf-8"))
            (package / source).write_text(COMMAND.sub(r"python -m awr.\1", text), encoding="utf-8")
        (package / "__init__.py").write_text(PACKAGE.format(version=VERSION), encoding="utf-8")
        (package / WEIGHTS).parent.mkdir()
        for file in (BANK, WEIGHTS):
            shutil.copy(ROOT / file, package / file)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds, beside setup.py."""
        return [*map(str, sources()), BANK, WEIGHTS, *(path.name for path in ROOT.glob("requirements*.txt"))]


setup(
    name="awr",
    version=VERSION,
    description="Adaptive weighting regression for 3D hand pose estimation from a single depth image",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["awr"],
    package_dir={"awr": "util"},  # any folder that is there: BuildUnderOneName writes the files
    install_requires=requirements("requirements.txt"),
    extras_require={extra: requirements(f"requirements-{extra}.txt") for extra in EXTRAS},
    cmdclass={"build_py": BuildUnderOneName},
)
