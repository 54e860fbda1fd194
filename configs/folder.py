"""The course notes' AlexNet on your own images: `configs/folder.py:PATH`.

    python -m alexnet_jax.main --config=configs/folder.py:PATH --workdir=runs/mine

Images are read from PATH/train/CLASS/ and PATH/validation/CLASS/ (JPEG or PNG); the classes are the
folders in PATH/train.

Time: 7 minutes on two CPU cores for 2 epochs of 5,000 images. Expected: it depends on the images;
after 2 epochs on ten classes of Tiny ImageNet, 37.8 % top-1 (measured).

On sets as small as that one the paper's initial weights and rate do not learn (a loss of ln 10
after 60 steps), so this recipe starts from He's weights, `he_init`, at a fifth of the rate.
"""

import ml_collections

from alexnet_jax.config import default_config
from alexnet_jax.data.sources.listing import class_folders
from alexnet_jax.errors import BadInput


def get_config(path: str = '') -> ml_collections.ConfigDict:
    if not path:
        raise BadInput('configs/folder.py needs your image folder: configs/folder.py:PATH')
    c = default_config()
    c.variant = 'course'
    c.edits = ('he_init',)
    c.num_classes = len(class_folders(f'{path}/train'))
    c.image_size = 227

    c.batch_size = 64
    c.epochs = 30.0
    c.log_every = 10
    c.eval_every = 100
    c.checkpoint_every = 100

    c.data.name = f'folder:{path}'
    c.data.eval_split = 'validation'
    to_256 = 'decode|resize_short(256)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror'
    c.data.eval_ops = to_256 + 'center_crop(227)'

    c.optimizer.learning_rate = 0.002
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_epochs = 1.0
    return c
