"""The paper: two towers on ILSVRC-2012; the rate is divided by 10 when the validation error stalls.

    python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR from the official archives. Without that override the
full-size images are read from TFDS (`--config.data.data_dir=DATA`) and resized in every epoch.

Time: five to six days on the authors' two GTX 580 (published). Expected: top-1 error 40.7%, top-5
18.2% on the validation set, averaged over ten crops (published, section 6.1, one net). Not run
here.

The paper does not state how long the error has to stall: here it is five evaluations, about five
epochs. Crops are 227 pixels wide, which gives the same grid as 224 with the last windows hanging
over the edge.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'paper'
    c.num_classes = 1000
    c.image_size = 227

    c.batch_size = 128
    c.epochs = 90.0
    c.log_every = 100
    c.eval_every = 10_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode(stored)|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror|pca_shift(0.1)'
    c.data.eval_ops = to_256 + 'center_crop(227)'  # ten_crop(227) evaluates as the paper does

    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'plateau'
    c.optimizer.gamma = 0.1
    c.optimizer.plateau_patience = 5
    c.optimizer.plateau_max_reductions = 3
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    return c
