"""Synthetic depth frames of an articulated hand in NYU's layout: `python -m dataloader.synthetic --help`."""
