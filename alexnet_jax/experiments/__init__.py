"""Published experiments, repeated: `python -m alexnet_jax.experiments NAME`."""
