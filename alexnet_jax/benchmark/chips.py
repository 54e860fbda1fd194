"""Published figures of chips that a step can be compiled for without having one.

TPUs: cloud.google.com/tpu/docs, the page of each version. Clocks are not published: with these, the
compiler's estimate of a product of two 8192 x 8192 matrices is 88% of a v5e's peak. GPUs: NVIDIA's
data sheets (without sparsity) and the table of compute capabilities in the CUDA programming guide.
"""

from dataclasses import dataclass

from alexnet_jax.errors import BadInput


@dataclass(frozen=True)
class Chip:
    """A chip's published figures.

    Attributes:
      name: Its name in tables.
      peak_flops: Operations per second of products in bfloat16.
      bandwidth: Bytes per second of its memory.
      memory: Bytes of its memory.
      clock: Cycles per second.
      example: A layout on one host.
      options: The libtpu options that make a device a whole chip rather than one of its cores.
    """

    name: str
    peak_flops: float
    bandwidth: float
    memory: float
    clock: float
    example: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gpu(Chip):
    """A GPU's published figures: those above, and what its compiler must know of it.

    Attributes:
      tf32_flops: Operations per second of products of float32 values at the default precision.
      float32_flops: The same at the highest precision.
      capability: Compute capability, (major, minor).
      multiprocessors: The number of its multiprocessors.
      shared_memory: Bytes of shared memory of each; a block can use 1 KiB less.
      l2_cache: Bytes of its second cache.
    """

    example: str = '1 to 8'
    tf32_flops: float
    float32_flops: float
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    l2_cache: int


_HOPPER = {
    'peak_flops': 989e12,
    'tf32_flops': 494e12,
    'float32_flops': 67e12,
    'clock': 1.98e9,
    'capability': (9, 0),
    'multiprocessors': 132,
    'shared_memory': 228 * 2**10,
    'l2_cache': 50 * 2**20,
}
CHIPS = {
    'v4': Chip(
        'TPU v4', 275e12, 1200e9, 32 * 2**30, 1.05e9, '2x2x1', (('chip_config_name', 'megacore'),)
    ),
    'v5e': Chip('TPU v5e', 197e12, 819e9, 16 * 2**30, 1.5e9, '2x2'),
    'v5p': Chip('TPU v5p', 459e12, 2765e9, 95 * 2**30, 1.75e9, '2x2x1'),
    'v6e': Chip('TPU v6e', 918e12, 1640e9, 32 * 2**30, 1.75e9, '2x2'),
    'a100': Gpu(
        name='NVIDIA A100',
        peak_flops=312e12,
        tf32_flops=156e12,
        float32_flops=19.5e12,
        bandwidth=2039e9,
        memory=80e9,
        clock=1.41e9,
        capability=(8, 0),
        multiprocessors=108,
        shared_memory=164 * 2**10,
        l2_cache=40 * 2**20,
    ),
    'h100': Gpu(name='NVIDIA H100', bandwidth=3350e9, memory=80e9, **_HOPPER),
    'h200': Gpu(name='NVIDIA H200', bandwidth=4800e9, memory=141e9, **_HOPPER),
}


def find_chip(topology: str) -> Chip:
    """Return the chip of a topology such as 'v5e:2x2' or 'h100:4'.

    Raises:
      BadInput: It names no chip in this table.
    """
    kind, _, layout = topology.partition(':')
    if kind not in CHIPS or not layout:
        examples = ', '.join(f'{name}:{chip.example}' for name, chip in CHIPS.items())
        raise BadInput(f'--topology={topology}; it must be a chip and a layout: {examples}')
    return CHIPS[kind]
