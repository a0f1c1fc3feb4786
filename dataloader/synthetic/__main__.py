"""Write synthetic, labelled depth frames of hands in NYU's layout.

python -m dataloader.synthetic --out data/synth --split train --frames 20000 --seed 0 --num_workers 2
"""

from dataloader.synthetic.command import SyntheticSettings, write_frames
from util.cli import run

if __name__ == "__main__":
    run(write_frames, __doc__, SyntheticSettings)
