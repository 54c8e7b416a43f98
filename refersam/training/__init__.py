"""Training: settings, data, optimizer, checkpoints and the loop."""
