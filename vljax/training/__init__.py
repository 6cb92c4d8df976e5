"""Training: state, gradients, step, loop, metrics, checkpoints."""
