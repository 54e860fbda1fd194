"""LeNet-5 (LeCun et al. 1998) on CIFAR-10, a baseline for deeper nets.

    python -m alexnet_jax.main --config=configs/lenet5.py --workdir=runs/lenet5

Time: about 5 minutes on two CPU cores. Expected: 37.6% test error after 14 of the 20 epochs
(measured: seed 0, on a JPEG copy of the images), a little less at the end. With the doubled rate of
biases that `configs/cifar10.py` has, five seeds end at 38.0% (EXPERIMENTS.md). Its authors
published nothing for it on CIFAR-10.

`alexnet_jax/model/variants.py` says how the net differs from the publication. To give it the
nonlinearity and the pools of AlexNet, add `--config.edits="('relu', 'max_pool')"`. Batches, epochs
and schedule are those of `configs/cifar10.py`, at a higher rate, since pixels have variance 1.
"""

import ml_collections

from alexnet_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
    c = cifar10.get_config()
    c.variant = 'lenet5'
    c.data.mean = 'none'  # the table normalizes

    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 5e-4
    c.optimizer.lr_multipliers = ()
    c.optimizer.weight_decay_multipliers = ()
    return c
