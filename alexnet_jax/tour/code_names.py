"""Which function of the code makes what a figure shows."""

from alexnet_jax.model.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Local,
    MaxPool,
    Normalize,
    WithinChannelLRN,
)

_OPS, _NET = 'alexnet_jax/model/ops.py', 'alexnet_jax/model/alexnet.py'
BY_LAYER = {
    Conv: f'{_OPS}: conv',
    Local: f'{_OPS}: local_conv',
    LRN: f'{_OPS}: local_response_norm',
    WithinChannelLRN: f'{_OPS}: within_channel_lrn',
    MaxPool: f'{_OPS}: max_pool',
    AvgPool: f'{_OPS}: avg_pool',
    BatchNorm: f'{_NET}: GhostBatchNorm',
    Dense: f'{_NET}: AlexNet',
    Normalize: f'{_NET}: AlexNet',
}
CODE = {kind.__name__: name for kind, name in BY_LAYER.items()}
OTHER = f'{_NET}: AlexNet'  # a nonlinearity or dropout that no layer comes before


def code_of(kind: str) -> str:
    """Return the function that computes a kind of layer: 'alexnet_jax/model/ops.py: conv'."""
    return CODE.get(kind, OTHER)
