"""BVLC AlexNet, Caffe's models/bvlc_alexnet, on ILSVRC-2012.

    python -m alexnet_jax.main --config=configs/bvlc.py --workdir=runs/bvlc \
        --config.data.data_dir=DATA

DATA is a TFDS folder with ILSVRC-2012 at full size: Caffe squeezes images to 256 x 256, whatever
their aspect ratio, while prepared ones are cropped to squares.

Time: a week on a K40 (published for CaffeNet: 26.5 seconds per 20 iterations, Caffe's ImageNet
tutorial). Expected: top-1 accuracy 57.1%, top-5 80.2% on the validation set, center crop, at
iteration 360,000 of 450,000; 57.258% at best (published, the model's readme). Not run here.

Caffe feeds BGR images, which amounts to the same net with conv1's channels in another order, and
has no color shift. One thing differs: Caffe subtracts from each crop, before mirroring, the part of
the mean image under that crop; here, the center of the mean image is subtracted from every crop.
"""

import ml_collections

from alexnet_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.variant = 'bvlc'
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
    c.data.train_ops = 'decode(stored)|resize(256)|random_crop(227)|random_mirror'
    c.data.eval_ops = 'decode(stored)|resize(256)|center_crop(227)'

    c.optimizer.learning_rate = 0.01
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = tuple(k * 100_000 / epoch for k in (1, 2, 3, 4))
    c.optimizer.gamma = 0.1
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 5e-4
    c.optimizer.lr_multipliers = (('*/bias', 2.0),)
    c.optimizer.weight_decay_multipliers = (('*/bias', 0.0),)
    return c
