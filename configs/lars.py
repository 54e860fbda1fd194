"""AlexNet with batch norm, trained by LARS in batches of 32,768.

    python -m alexnet_jax.main --config=configs/lars.py --workdir=runs/lars \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR. A step is accumulated over 64 parts of 512 images, so it
runs on one GPU as well as on eight (which then take 64 images each at a time); on a small machine,
`--config.accum_steps=512 --config.ghost_batch_size=64`. Batch norm computes its statistics over 64
consecutive images, as on each of eight GPUs with the original's train_val2.prototxt (with its
half-precision train_val2_fp16.prototxt, 256).

Time: 11 minutes on 1,024 CPUs (published). Expected: 58% top-1, 80% top-5 accuracy on the
validation set, center crop, after 100 epochs (published: You, Zhang, Hsieh, Demmel and Keutzer,
ImageNet Training in Minutes, arXiv 1709.05011). Not run here.

From NVIDIA's Caffe of that time (commit b66e1ede), models/alexnet_bn/solver_32k.prototxt: a rate
that rises for 400 iterations and is then 32 (1 - done)^2, a trust coefficient of 0.001, a weight
decay of 0.0005. There the warmup begins at 1, here near 0; and there LARS scales the biases too,
while here their rate is a thousandth of the schedule's, at most 0.032.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'alexnet_bn'
    c.num_classes = 1000
    c.image_size = 227

    c.batch_size = 32_768
    c.accum_steps = 64
    c.ghost_batch_size = 64
    c.epochs = 100.0
    c.log_every = 10
    c.eval_every = 39  # about an epoch
    c.checkpoint_every = 39

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    to_256 = 'decode(stored)|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror'
    c.data.eval_ops = to_256 + 'center_crop(227)'

    c.optimizer.learning_rate = 32.0
    c.optimizer.schedule = 'poly'
    c.optimizer.poly_power = 2.0
    c.optimizer.warmup_epochs = 400 * c.batch_size / 1_281_167
    c.optimizer.trust_coefficient = 0.001
    c.optimizer.lr_multipliers = (('*/bias', 0.001),)
    return c
