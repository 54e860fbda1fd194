"""A page to look at runs: `python -m alexnet_jax.report RUN`."""
