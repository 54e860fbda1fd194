"""Classify images in the browser or over HTTP: `python -m alexnet_jax.serve --workdir=RUN`."""
