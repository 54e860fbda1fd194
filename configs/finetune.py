"""Fine-tune the network of a run on your own images: `configs/finetune.py:RUN,PATH`.

    python -m alexnet_jax.main --config=configs/finetune.py:RUN,PATH --workdir=runs/tuned

RUN is the workdir of a run, trained here or converted. PATH is a folder of images, as for
`configs/folder.py`. Network, image size, mean image and eval ops are taken from the run; the
training ops are the eval ops with a random crop and mirroring. The last layer starts from scratch
unless the classes are the same.

Time: half a minute for 300 steps of 32 images at 32 x 32 on two CPU cores. Expected: it depends on
the run and the images; on 20 images of each of three classes, 86.9% top-1 versus 71.0% from
scratch (measured, five seeds: docs/finetuning.md).

The rates follow Caffe's models/finetune_flickr_style: 0.001, a tenth of the rate its nets were
trained with, 10 times that in the last layer, twice that for biases, with a drop by a factor of 10;
its 100,000 iterations become 10 epochs, but at least 1,000 steps. To freeze layers, add
--config.optimizer.freeze="('conv*',)".
"""

import math
import re

import ml_collections

from alexnet_jax.config import default_config
from alexnet_jax.data.sources.layout import expand, find_layout
from alexnet_jax.data.sources.listing import say
from alexnet_jax.errors import BadInput
from alexnet_jax.model import variants
from alexnet_jax.model.shapes import layer_names
from alexnet_jax.saved_config import read_config, take_run

EPOCHS, STEPS = 10, 1_000  # at least


def get_config(argument: str = '') -> ml_collections.ConfigDict:
    run, path = take_run(argument)
    if not (run and path):
        raise BadInput(
            f'configs/finetune.py:{argument} needs a run and a folder of images: '
            f'configs/finetune.py:RUN,PATH'
        )
    before = read_config(run)
    c = default_config()
    c.init_from = run
    for key in ('variant', 'edits', 'image_size', 'dtype', 'precision'):
        c[key] = before[key]
    layout = find_layout(path)
    images = len(layout.train.files)
    c.num_classes = len(layout.classes)

    c.batch_size = 64
    while c.batch_size > 16 and images / c.batch_size < 16:  # fewer steps in an epoch
        c.batch_size //= 2
    c.ghost_batch_size = math.gcd(before.ghost_batch_size, c.batch_size)
    c.epochs = float(max(EPOCHS, math.ceil(STEPS * c.batch_size / images)))
    c.log_every = 10
    # Every 100 steps, and in large folders, at most about once an epoch.
    steps_per_epoch = images / c.batch_size
    c.checkpoint_every = min(500, 100 * max(1, round(steps_per_epoch / 100)))
    c.eval_every = c.checkpoint_every * max(1, round(steps_per_epoch / c.checkpoint_every))

    c.data.name = f'folder:{expand(path)}'
    c.data.eval_ops = _for_photos(before.data.eval_ops, c.image_size)
    c.data.train_ops = _augmented(c.data.eval_ops)
    c.data.mean = 'none' if before.data.mean == 'none' else 'init_from'

    head = layer_names(variants.build(c.variant, c.edits, c.num_classes))[-1]
    c.optimizer.learning_rate = 0.001
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = (round(c.epochs * 2 / 3),)
    c.optimizer.gamma = 0.1
    c.optimizer.lr_multipliers = ((f'{head}/kernel', 10.0), (f'{head}/bias', 20.0), ('*/bias', 2.0))
    c.optimizer.weight_decay_multipliers = (('*/bias', 0.0),)

    say(
        f'configs/finetune.py: {before.variant} of {run}, {layout.count} images in '
        f'{c.num_classes:,} classes, so batch_size={c.batch_size} epochs={c.epochs:g}; '
        f'--config.KEY=VALUE overrides'
    )
    return c


def _for_photos(eval_ops: str, image_size: int) -> str:
    """The run's eval ops for images of any size, rotated as a viewer shows them, and antialiased.

    Otherwise, a large photo would be sampled at a few of its pixels.
    """
    decode, *ops = eval_ops.split('|')
    ops = [re.sub(r'^\s*(resize(?:_short)?\([\d, ]+)\)', r'\1, antialias)', op) for op in ops]
    if not re.search(r'\b(resize|resize_short|torchvision)\(', eval_ops):
        ops = [f'resize_short({image_size}, antialias)', f'center_crop({image_size})']
    return '|'.join([decode.replace('(stored)', ''), *ops])


def _augmented(eval_ops: str) -> str:
    """Eval ops with a random crop in place of the center or of several views, and mirroring."""
    *ops, last = eval_ops.split('|')
    name, *numbers = re.findall(r'\w+', last)
    match name:
        case 'torchvision':
            ops += [f'resize_short({numbers[0]}, antialias)', f'random_crop({numbers[1]})']
        case 'center_crop' | 'ten_crop' | 'crops' | 'mirrored_crops':
            ops.append(f'random_crop({numbers[0]})')
        case _:
            ops.append(last)
    return '|'.join([*ops, 'random_mirror'])
