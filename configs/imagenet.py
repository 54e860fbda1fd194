"""The course notes' AlexNet on ILSVRC-2012 with the paper's recipe.

    python -m alexnet_jax.main --config=configs/imagenet.py --workdir=runs/imagenet \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR from the official archives.

Time: two CPU cores train 37 images/s (measured), at which 90 epochs would take five weeks: this
needs an accelerator, and it has not been timed on one. Expected: top-1 error 40.7%, top-5
18.2% on the validation set with ten crops (published for the paper's two towers, section 6.1). Not
run here.

Three things differ from `configs/paper.py`: there is one tower instead of two, the rate drops at
the epochs of the authors' source instead of when the validation error stalls, and dropout scales up
in training instead of down at test time.
"""

import ml_collections

from alexnet_jax.configs import paper


def get_config() -> ml_collections.ConfigDict:
    c = paper.get_config()
    c.variant = 'course'
    c.optimizer.schedule = 'step'
    c.optimizer.milestones = (25.0, 51.0, 79.0)
    return c
