"""Three learning rates × local response normalization on or off × two seeds: 12 trials.

    python -m alexnet_jax.sweep --config=configs/cifar10.py --sweep=configs/sweeps/lr_lrn.py \
        --workdir=runs/lr_lrn \
        --config.data.train_split='train[:90%]' --config.data.eval_split='train[90%:]'

The last tenth of the training set ranks them, so that the test set stays unseen. Time: about 8
hours on two CPU cores, 12 times the 41 minutes of `configs/cifar10.py`.
"""


def get_space():
    return {
        'optimizer.learning_rate': [0.001, 0.003, 0.01],
        'edits': [(), ('no_lrn',)],
        'seed': range(2),
    }
