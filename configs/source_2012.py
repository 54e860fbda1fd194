"""The network and the recipe of the authors' 2012 source, net 145, on ILSVRC-2012.

    python -m alexnet_jax.main --config=configs/source_2012.py --workdir=runs/source_2012 \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR. Time: five to six days on the authors' two GTX 580
(published, in the paper). Expected: top-1 error 40.66%, top-5 18.21%, cross-entropy 1.7415 on the
validation set with ten crops (published, layer-params-145.cfg). Not run here.

Other nets of the source, as edits: `--config.edits="('no_lrn',)"` is net 148 (42.03, 19.36%),
`no_tower_communication` is net 150 (41.83, 19.33%), `non_overlapping_pool` is net 147 (41.06,
18.51%; its conv2 and conv5 also have one pixel less of padding, to make the sizes work out). Each
net had its own schedule. In net 148, the weights' rate drops at epochs 22, 44 and 86, and training
ends at 97; in net 150, at 25, 49 and 79 (conv1's also at 66), ending at 92; in net 147, at 23, 51
and 79. The net for ILSVRC-2010 has drops at 23, 51 and 78 and ends at 93, with a final rate of
0.002 for the biases. To follow one, set `optimizer.milestones`, `lr_overrides` and `epochs`.

The log changes the rates by hand: those of the weights at epochs 25, 51 and 79; that of conv1 also
at 67, and from 72 it is frozen. Biases keep a rate of 0.02 and have no decay. Training ends at 91.
The color noise is divided out by 1.1 and ends at epoch 67. One thing differs: the source gives 32
consecutive images the same crop and mirroring; here each image has its own.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'source_2012'
    c.num_classes = 1000
    c.image_size = 224

    c.batch_size = 128
    c.epochs = 91.0
    c.log_every = 100
    c.eval_every = 10_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode(stored)|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(224)|random_mirror|color_noise(0.1, 67)'
    c.data.eval_ops = to_256 + 'center_crop(224)'  # ten_crop(224) evaluates as the source does

    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = (25.0, 51.0, 79.0)
    c.optimizer.gamma = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    c.optimizer.weight_decay_multipliers = (('*/bias', 0.0),)
    c.optimizer.lr_overrides = (
        ('conv1/kernel', ((0, 0.01), (25, 1e-3), (51, 1e-4), (67, 1e-5), (72, 0.0))),
        ('conv1/bias', ((0, 0.02), (72, 0.0))),
        ('*/bias', ((0, 0.02),)),
    )
    return c
