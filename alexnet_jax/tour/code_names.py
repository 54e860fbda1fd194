"""Which function of the code makes what a figure shows."""

_OPS = {
    'Conv': 'conv',
    'Local': 'local_conv',
    'LRN': 'local_response_norm',
    'WithinChannelLRN': 'within_channel_lrn',
    'MaxPool': 'max_pool',
    'AvgPool': 'avg_pool',
}


def code_of(kind: str) -> str:
    """Return the function that computes a kind of layer: 'alexnet_jax/model/ops.py: conv'."""
    if kind in _OPS:
        return f'alexnet_jax/model/ops.py: {_OPS[kind]}'
    if kind == 'BatchNorm':
        return 'alexnet_jax/model/batch_norm.py: GhostBatchNorm'
    if kind == 'Dense':
        return 'alexnet_jax/model/alexnet.py: WeightedLayer'
    return 'alexnet_jax/model/alexnet.py: AlexNet'
