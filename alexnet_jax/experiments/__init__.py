"""Published experiments, run again: `python -m alexnet_jax.experiments NAME`."""
