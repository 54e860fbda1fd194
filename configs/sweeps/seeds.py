"""The same recipe with several seeds, here 20, for the mean and the spread of its scores.

    python -m alexnet_jax.sweep --config=configs/quickstart.py --sweep=configs/sweeps/seeds.py:20 \
        --workdir=runs/quickstart_seeds --max_parallel=2
"""


def get_space(count: str = '5'):
    return {'seed': range(int(count))}
