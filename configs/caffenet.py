"""CaffeNet, Caffe's models/bvlc_reference_caffenet, on ILSVRC-2012: pools before norms.

    python -m alexnet_jax.main --config=configs/caffenet.py --workdir=runs/caffenet \
        --config.data.data_dir=DATA

The data and the recipe are those of `configs/bvlc.py`. Expected: top-1 accuracy 57.4 %, top-5
80.4 % on the validation set, center crop, at iteration 310,000 of 450,000; 57.412 % at best
(published, the model's readme). Not run here.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'caffenet'
    c.num_classes = 1000
    c.image_size = 227

    c.batch_size = 256
    epoch = 1_281_167 / c.batch_size  # iterations
    c.epochs = 450_000 / epoch
    c.log_every = 100
    c.eval_every = 5_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    c.data.train_ops = 'decode|resize(256)|random_crop(227)|random_mirror'
    c.data.eval_ops = 'decode|resize(256)|center_crop(227)'

    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = tuple(k * 100_000 / epoch for k in (1, 2, 3, 4))
    c.optimizer.gamma = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    c.optimizer.lr_multipliers = (('*/bias', 2.0),)
    c.optimizer.weight_decay_multipliers = (('*/bias', 0.0),)
    return c
