"""torchvision's alexnet, after "One weird trick" (Krizhevsky 2014), with its reference recipe.

    python -m alexnet_jax.main --config=configs/torchvision.py --workdir=runs/torchvision \
        --config.data.data_dir=DATA

DATA is a TFDS folder with ILSVRC-2012 at full size: the random crops cover 8 to 100% of an image.

Time: not published and not measured here. Expected: top-1 accuracy 56.522%, top-5 79.066% on the
validation set, center crop (published for the IMAGENET1K_V1 weights). Not run here.

A batch of 256 is 32 on each of 8 GPUs. Evaluation uses torchvision's own pixels, to within one
level. Two things differ in training: random crops are resized without antialiasing, and torch's SGD
applies the rate outside the velocity, which matters in the steps after a drop.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'torchvision'
    c.num_classes = 1000
    c.image_size = 224

    c.batch_size = 256
    c.epochs = 90.0
    c.log_every = 100
    c.eval_every = 5_000  # about an epoch
    c.checkpoint_every = 2_500

    c.data.name = 'tfds:imagenet2012'
    c.data.eval_split = 'validation'
    c.data.train_ops = 'decode(stored)|random_resized_crop(224)|random_mirror'
    c.data.eval_ops = 'decode(stored)|torchvision(256, 224)'
    c.data.mean = 'none'  # the table subtracts its own mean

    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = (30.0, 60.0)
    c.optimizer.gamma = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 1e-4
    return c
