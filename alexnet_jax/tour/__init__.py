"""`python -m alexnet_jax.tour`: a page that follows one picture through the network."""
