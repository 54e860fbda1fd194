"""The network: tables of layers, and the Flax module that folds over one."""
