"""The 18% net of AlexNet's authors on CIFAR-10, as their code of September 2011 trained it.

    python -m alexnet_jax.main --config=configs/cifar10_18pct_2011.py --workdir=runs/cifar10_2011

Time: as `configs/cifar10_18pct.py`, 81 minutes on two CPU cores. Expected: 18% test error
(published, "in 20 minutes"). Not run here.

It differs from that recipe in three points, all read in cuda-convnet's history:

    average pools   divide by 9 at the edges too, where the window has only 6 or 4 pixels (AvgPooler
                    in src/layer.cu; the pixels that exist are counted since July 2012)
    data            the order of the images is the same in every epoch (data.py)
    biases          keep their rate of 0.002; what is lowered is "all learning rates (the epsW
                    parameters)" (the wiki's Methodology)

One difference remains: the code cut the five files of 10,000 images into 78 batches of 128 and one
of 16, which got the full rate; here batches cross the ends of files and epochs.
"""

import ml_collections

from alexnet_jax.configs import cifar10_18pct


def get_config() -> ml_collections.ConfigDict:
    c = cifar10_18pct.get_config()
    c.edits = ('full_window_average',)
    c.data.reshuffle = False
    c.optimizer.lr_overrides = (('*/bias', ((0, 0.001),)),)  # doubled by lr_multipliers
    return c
