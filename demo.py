"""Hand poses from your own depth: a file, a folder, a video, a camera, or a hand that is rendered.

python demo.py --source frame.png --camera sr305 --save out

python demo.py --source synthetic --serve
"""

from util.cli import run
from util.demo.settings import GROUPS, DemoSettings


def main(settings: DemoSettings) -> None:
    """Predict and show."""
    from util.demo.run import run_demo  # here, so that --help does not wait for PyTorch

    run_demo(settings)


if __name__ == "__main__":
    run(main, __doc__, DemoSettings, GROUPS)
