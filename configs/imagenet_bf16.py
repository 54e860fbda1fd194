"""The course notes' AlexNet on ILSVRC-2012 for GPUs and TPUs: bfloat16, batch 1024.

    python -m alexnet_jax.main --config=configs/imagenet_bf16.py --workdir=runs/imagenet_bf16 \
        --config.data.name=prepared:DIR

`configs/imagenet.py` says how to prepare the data. The rate grows with the batch (8 x 0.01) after
a warm-up of 5 epochs, and falls along a cosine. Expected: no figure is published for this recipe,
and it was not run here.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'course'
    c.num_classes = 1000
    c.image_size = 227
    c.dtype = 'bfloat16'

    c.batch_size = 1024
    c.epochs = 90.0
    c.log_every = 50
    c.eval_every = 1_250  # about an epoch
    c.checkpoint_every = 1_250

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror|pca_shift(0.1)'
    c.data.eval_ops = to_256 + 'center_crop(227)'

    c.optimizer.learning_rate = 0.08
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_epochs = 5.0
    return c
