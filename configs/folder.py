"""The course notes' AlexNet on your own images: `configs/folder.py:PATH`.

    python -m alexnet_jax.main --config=configs/folder.py:PATH --workdir=runs/mine

Images are read from PATH/train/CLASS/ and PATH/validation/CLASS/, or from PATH/CLASS/, where a hash
of their paths sets aside a tenth of them for validation; docs/your-images.md walks through it.
Batch size, epochs and intervals are derived from the number of images and classes.

Time: 7 minutes on two CPU cores for 2 epochs of 5,000 images. Expected: it depends on the images;
after 2 epochs on ten classes of Tiny ImageNet, 37.8% top-1 (measured).

On small datasets, the paper's initial weights and rate do not learn (a loss of ln 10 after 60 steps
on those ten classes), so this recipe uses He initialization, `he_init`, and a fifth of the rate, in
proportion to the batch size: 53 images in batches of 16 get stuck at 0.002 and learn at 0.0005.
"""

import ml_collections

from alexnet_jax.config import default_config
from alexnet_jax.data.sources.layout import expand, find_layout
from alexnet_jax.data.sources.listing import say
from alexnet_jax.errors import BadInput

PERIODS = (25, 50, 100, 250, 500)  # steps between checkpoints


def get_config(path: str = '') -> ml_collections.ConfigDict:
    if not path:
        raise BadInput('configs/folder.py needs your image folder: configs/folder.py:PATH')
    layout = find_layout(path)
    images, classes = len(layout.train.files), len(layout.classes)
    c = default_config()
    c.variant = 'course'
    c.edits = ('he_init',)
    c.num_classes = classes
    c.image_size = 227

    # A batch of 64, or of 128 for many classes; fewer where an epoch would have few steps.
    c.batch_size = 128 if images >= 100_000 or classes >= 500 else 64
    while c.batch_size > 16 and images / c.batch_size < 16:
        c.batch_size //= 2
    c.epochs = float(min(100, max(30, 10 * round(15_000 / images))))
    steps_per_epoch = images / c.batch_size
    # About 25 checkpoints, and evaluations about once per epoch or less often.
    wanted = c.epochs * steps_per_epoch / 25
    c.checkpoint_every = min(PERIODS, key=lambda period: abs(period - wanted))
    c.eval_every = c.checkpoint_every * max(1, round(steps_per_epoch / c.checkpoint_every))
    c.log_every = max(5, c.checkpoint_every // 10)

    c.data.name = f'folder:{expand(path)}'
    to_256 = 'decode|resize_short(256, antialias)|center_crop(256)|'
    c.data.train_ops = to_256 + 'random_crop(227)|random_mirror'
    c.data.eval_ops = to_256 + 'center_crop(227)'

    c.optimizer.learning_rate = 0.002 * c.batch_size / 64
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_epochs = c.epochs / 30

    say(
        f'configs/folder.py: {layout.count} images in {classes:,} '
        f'classes, so batch_size={c.batch_size} epochs={c.epochs:g} eval_every={c.eval_every} '
        f'checkpoint_every={c.checkpoint_every} log_every={c.log_every} optimizer.learning_rate='
        f'{c.optimizer.learning_rate:g} optimizer.warmup_epochs={c.optimizer.warmup_epochs:.2g}; '
        f'--config.KEY=VALUE overrides'
    )
    return c
