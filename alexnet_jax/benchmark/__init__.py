"""Times the training step and the input pipeline: `python -m alexnet_jax.benchmark`."""
