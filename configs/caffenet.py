"""CaffeNet, Caffe's models/bvlc_reference_caffenet, on ILSVRC-2012: pools before norms.

    python -m alexnet_jax.main --config=configs/caffenet.py --workdir=runs/caffenet \
        --config.data.data_dir=DATA

Everything but the network is as in `configs/bvlc.py`, which explains what DATA is.

Time: a week on a K40 (published: 26.5 seconds per 20 iterations, Caffe's ImageNet tutorial).
Expected: top-1 accuracy 57.4%, top-5 80.4% on the validation set, center crop, at iteration
310,000 of 450,000; 57.412% at best (published, the model's readme). Not run here.
"""

import ml_collections

from alexnet_jax.configs import bvlc


def get_config() -> ml_collections.ConfigDict:
    c = bvlc.get_config()
    c.variant = 'caffenet'
    return c
