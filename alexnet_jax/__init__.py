"""AlexNet in JAX: the network, its 2012 recipe and its relatives."""
