"""The paper's net without one of its parts: `configs/ablation.py:EDIT`; the whole net without EDIT.

    python -m alexnet_jax.main --config=configs/ablation.py:no_lrn --workdir=runs/no_lrn \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR. Everything else is as in `configs/paper.py`. Time: five to
six days on the authors' two GTX 580 (published). Expected, in points of top-1 / top-5 error above
the whole net with ten crops (published in the paper, or in the logs of the 2012 source for nets
compared with its net 145):

    no_lrn                  1.4 / 1.2 (section 3.3); 1.37 / 1.15 (net 148)
    non_overlapping_pool    0.4 / 0.3 (section 3.4); 0.40 / 0.30 (net 147)
    no_tower_communication  1.17 / 1.12 (net 150: two wider towers that meet in fc8)
    no_color_shift          "over 1" of top-1 (section 4.1)
    no_dropout, no_augmentation   "substantial overfitting" (sections 4.2 and 4.1)
    without_conv4           about 2 of top-1 ("any of the middle layers", section 7)
    tanh                    six times as many epochs to 25% training error on CIFAR-10 (figure 1)
    one_tower, half_width, sigmoid, leaky_relu, elu, average_pool, he_init   nothing published
    relu, max_pool, full_window_average, dropout   nothing to change in this net

Not run here. To combine edits, set the key: `--config.edits="('one_tower', 'half_width')"` gives
one tower with half the kernels in each convolutional layer (1.7 / 1.2, section 3.2). Unlike the
paper's net (its footnote 1), it also halves conv5 and the hidden fully connected layers.
"""

import ml_collections

from alexnet_jax.config import suggest
from alexnet_jax.configs import paper
from alexnet_jax.errors import BadInput
from alexnet_jax.model.edits import EDITS


def get_config(edit: str = '') -> ml_collections.ConfigDict:
    c = paper.get_config()
    if edit in EDITS:
        c.edits = (edit,)
    elif edit == 'no_color_shift':
        c.data.train_ops = c.data.train_ops.removesuffix('|pca_shift(0.1)')
    elif edit == 'no_augmentation':
        c.data.train_ops = c.data.eval_ops
    elif edit:
        allowed = [*EDITS, 'no_augmentation', 'no_color_shift']
        raise BadInput(f'configs/ablation.py:{edit}: unknown edit; {suggest(edit, allowed)}')
    return c
