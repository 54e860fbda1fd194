"""The paper's net less one of its parts: `configs/ablation.py:EDIT`; the whole net without.

    python -m alexnet_jax.main --config=configs/ablation.py:no_lrn --workdir=runs/no_lrn \
        --config.data.name=prepared:DIR

`configs/imagenet.py` says where DIR comes from. Published, in points of top-1 / top-5 error that
the net gets worse by (paper, or nets of the source's logs against its net 145, ten crops):

    no_lrn                  1.4 / 1.2 (section 3.3); 1.37 / 1.15 (net 148)
    non_overlapping_pool    0.4 / 0.3 (section 3.4); 0.40 / 0.30 (net 147)
    no_tower_communication  1.17 / 1.12 (net 150, two wider towers that meet in fc8)
    no_color_shift         "over 1" of top-1 (section 4.1)
    half_width              1.7 / 1.2 (section 3.2, with one tower, half the kernels in each
                            convolutional layer)
    no_dropout, no_augmentation   "substantial overfitting" (sections 4.2 and 4.1)
    tanh                    six times as many epochs to 25 % training error on CIFAR-10 (figure 1)
    one_tower, sigmoid, average_pool, he_init   nothing published

Not run here. More than one: `--config.edits="('no_lrn', 'tanh')"`.
"""

import ml_collections

from alexnet_jax.config import BadInput, default_config, suggest, variants

AUGMENTATION = ('no_augmentation', 'no_color_shift')


def get_config(edit: str = '') -> ml_collections.ConfigDict:
    allowed = [*variants.EDITS, *AUGMENTATION]
    if edit and edit not in allowed:
        raise BadInput(f'configs/ablation.py:{edit}: no such edit; {suggest(edit, allowed)}')
    c = default_config()
    c.variant = 'paper'
    c.edits = (edit,) if edit in variants.EDITS else ()
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
    crops = 'random_crop(227)|random_mirror'
    c.data.train_ops = to_256 + {
        'no_augmentation': 'center_crop(227)',
        'no_color_shift': crops,
    }.get(edit, f'{crops}|pca_shift(0.1)')
    c.data.eval_ops = to_256 + 'center_crop(227)'  # ten_crop(227) scores as the paper does

    c.optimizer.learning_rate = 0.01
    c.optimizer.milestones = (25.0, 51.0, 79.0)
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    return c
