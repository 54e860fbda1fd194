"""Three learning rates × local response normalization on or off × two seeds: 12 trials.

    python -m alexnet_jax.sweep --config=configs/cifar10.py --sweep=configs/sweeps/lr_lrn.py \
        --workdir=runs/lr_lrn
"""


def get_space():
    return {
        'optimizer.learning_rate': [0.001, 0.003, 0.01],
        'edits': [(), ('no_lrn',)],
        'seed': range(2),
    }
