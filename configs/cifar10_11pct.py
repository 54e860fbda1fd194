"""The 11% net of AlexNet's authors on CIFAR-10 (cuda-convnet, layers-conv-local-11pct.cfg).

    python -m alexnet_jax.main --config=configs/cifar10_11pct.py --workdir=runs/cifar10_11pct
    python -m alexnet_jax.main --mode=eval --workdir=runs/cifar10_11pct \
        --checkpoints=runs/cifar10_11pct@last --eval_ops='decode(stored)|ten_crop(24)'

Time: about 8 hours on two CPU cores, estimated. Expected: 11% test error (published, "in 75
minutes"), which the second command measures. Not run here.

The paper's section 3.3 gives 13% without and 11% with norms, "specified precisely" by this net
and that of `configs/cifar10_13pct.py`. They differ in more than the norms: local3 has 64 filters
instead of 32, fc10 a weight decay of 0.01 instead of 0.004, and training takes 520 epochs instead
of 160: 350 on four fifths of the images, 150 on all, and 10 and 10 with a tenth and a hundredth of
the weights' rates (layer-params-conv-local-11pct.cfg). This recipe takes all images throughout, and
as many of them: 430, 10 and 10 epochs; `configs/cifar10_13pct.py` shows how to fold in the last
fifth. To measure the norms alone, train this net with `--config.edits="('no_lrn',)"` too.
"""

import ml_collections

from alexnet_jax.configs import cifar10_13pct


def get_config() -> ml_collections.ConfigDict:
    c = cifar10_13pct.get_config()
    c.variant = 'cifar10_11pct'
    c.epochs = 450.0
    c.optimizer.milestones = (430.0, 440.0)
    c.optimizer.weight_decay_multipliers = (
        ('*/bias', 0.0),
        ('conv*/kernel', 0.0),
        ('fc10/kernel', 2.5),
    )
    return c
