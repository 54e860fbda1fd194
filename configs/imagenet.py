"""The course notes' AlexNet on ILSVRC-2012 with the recipe of the paper.

    python -m alexnet_jax.main --config=configs/imagenet.py --workdir=runs/imagenet \
        --config.data.name=prepared:DIR

The README says how to make DIR from the official archives. Without that override the full-size
images are read from TFDS (`--config.data.data_dir=DATA`) and rescaled anew in every epoch.

Expected: top-1 error 40.7 %, top-5 18.2 % on the validation set, ten crops: published, for the
paper's two towers (its section 6.1); not measured here. Two CPU cores train 25 images/s
(measured), so 90 epochs want an accelerator.

Two things differ from the paper: one tower instead of two (`--config.variant=paper` for two), and
the rate drops at fixed epochs, those of the authors' source, not when the validation error stalls.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'course'
    c.num_classes = 1000
    c.image_size = 227

    c.batch_size = 128
    c.epochs = 90.0
    c.log_every = 100
    c.eval_every = 10_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror|pca_shift(0.1)'
    c.data.eval_ops = to_256 + 'center_crop(227)'  # ten_crop(227) scores as the paper does

    c.optimizer.learning_rate = 0.01
    c.optimizer.milestones = (25.0, 51.0, 79.0)
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    return c
