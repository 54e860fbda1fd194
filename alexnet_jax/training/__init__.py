"""The loop, the step and the optimizer."""
