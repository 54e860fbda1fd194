"""A page that shows runs: `python -m alexnet_jax.report RUN`."""
