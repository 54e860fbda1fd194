"""The course notes' AlexNet on ILSVRC-2012 for GPUs and TPUs: bfloat16, batches of 1,024.

    python -m alexnet_jax.main --config=configs/imagenet_bf16.py --workdir=runs/imagenet_bf16 \
        --config.data.name=prepared:DIR

`docs/data.md` describes how to make DIR. What differs from `configs/imagenet.py`: the rate grows
with the batch (8 x 0.01) over a warmup of 5 epochs and then falls along a cosine.

Time and expected accuracy: nothing is published for this recipe, and it has not been run here.
"""

import ml_collections

from alexnet_jax.configs import imagenet


def get_config() -> ml_collections.ConfigDict:
    c = imagenet.get_config()
    c.dtype = 'bfloat16'

    c.batch_size = 1024
    c.log_every = 50
    c.eval_every = 1_250  # about an epoch
    c.checkpoint_every = 1_250

    c.optimizer.learning_rate = 0.08
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_epochs = 5.0
    return c
