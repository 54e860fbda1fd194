"""The 44 epochs that the 2012 source's net 145 was trained on, with the rates raised again.

    python -m alexnet_jax.main --config=configs/source_2012_longer.py --workdir=runs/longer \
        --config.init_from=runs/source_2012 --config.data.name=prepared:DIR

It starts from the weights of a run of `configs/source_2012.py`. Expected: top-1 error 40.25 %,
top-5 17.99 %, cross-entropy 1.7257 on the validation set of ILSVRC-2012, ten crops (published,
layer-params-145.cfg). Not run here.

The log: "start epsw 0.001 (still 0 on conv1), color noise put back to 0.1"; at epoch 107 a tenth of
the rate, at 124 a hundredth and no color noise, killed at 135. Epochs here count from 91, where it
starts. One thing differs: the velocities start from 0.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'source_2012'
    c.num_classes = 1000
    c.image_size = 224

    c.batch_size = 128
    c.epochs = 44.0
    c.log_every = 100
    c.eval_every = 10_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(224)|random_mirror|color_noise(0.1, 33)'
    c.data.eval_ops = to_256 + 'center_crop(224)'  # ten_crop(224) scores as the source does

    c.optimizer.learning_rate = 0.001
    c.optimizer.milestones = (16.0, 33.0)
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    c.optimizer.weight_decay_multipliers = (('*/bias', 0.0),)
    c.optimizer.lr_overrides = (('conv1/*', ((0, 0.0),)), ('*/bias', ((0, 0.02),)))
    return c
