"""One training run, from the first step to the last: settings and frames in, a folder with checkpoints,
log and curves out. It validates with the network as it is and imports nothing of deployment."""
