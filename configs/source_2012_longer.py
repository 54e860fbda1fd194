"""Net 145 of the 2012 source, trained for another 44 epochs with the rates raised again.

    python -m alexnet_jax.main --config=configs/source_2012_longer.py --workdir=runs/longer \
        --config.data.name=prepared:DIR

It starts from the weights in runs/source_2012, a run of `configs/source_2012.py`; that file
describes DIR, and --config.init_from=RUN names another run. Time: half as long as that run.
Expected: top-1 error 40.25%, top-5 17.99%, cross-entropy 1.7257 on the validation set of
ILSVRC-2012 with ten crops (published, layer-params-145.cfg). Not run here.

The log says "start epsw 0.001 (still 0 on conv1), color noise put back to 0.1"; the rate is divided
by 10 at epoch 107 and again at 124, where the color noise ends; training was killed at 135. Epochs
here are counted from 91, where it starts. One thing differs: the velocities start from 0.
"""

import ml_collections

from alexnet_jax.configs import source_2012


def get_config() -> ml_collections.ConfigDict:
    c = source_2012.get_config()
    c.init_from = 'runs/source_2012'
    c.epochs = 44.0
    c.data.train_ops = c.data.train_ops.replace('color_noise(0.1, 67)', 'color_noise(0.1, 33)')
    c.optimizer.learning_rate = 0.001
    c.optimizer.milestones = (16.0, 33.0)
    c.optimizer.lr_overrides = (('conv1/*', ((0, 0.0),)), ('*/bias', ((0, 0.02),)))
    return c
