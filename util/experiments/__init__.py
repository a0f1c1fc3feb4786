"""The paper's claims as commands: an experiment's name in; a table, a figure and JSON out.

It trains by `util/training/`, predicts by `util/inference/` and scores by `util/metrics.py`.
"""
