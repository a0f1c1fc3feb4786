"""What torchrun starts in test_distributed.py: train.py's run, then every process's network to a file."""

import sys
from pathlib import Path

import torch

from config import Config
from util.cli import parse_settings
from util.device import pick_device
from util.training.distributed import init_distributed
from util.training.trainer import train

config = parse_settings(sys.argv[1:], __doc__, Config).resolved()
with init_distributed(pick_device(config.device)) as processes:
    state = train(config, processes)
    torch.save(state.network.state_dict(), Path(config.output_dir, f"network_{processes.rank}.pth"))
