"""Published figures of chips that a step can be compiled for without having one.

TPUs: cloud.google.com/tpu/docs, the page of each version. Clocks are not published: with these, the
compiler's estimate of a product of two 8192 x 8192 matrices is 88 % of a v5e's peak.
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
      clock: Cycles per second of the compiler's estimates.
      example: A topology of one host.
      options: The libtpu options that make a device a whole chip rather than one of its cores.
    """

    name: str
    peak_flops: float
    bandwidth: float
    memory: float
    clock: float
    example: str
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    'v4': Chip(
        'TPU v4', 275e12, 1200e9, 32 * 2**30, 1.05e9, '2x2x1', (('chip_config_name', 'megacore'),)
    ),
    'v5e': Chip('TPU v5e', 197e12, 819e9, 16 * 2**30, 1.5e9, '2x2'),
    'v5p': Chip('TPU v5p', 459e12, 2765e9, 95 * 2**30, 1.75e9, '2x2x1'),
    'v6e': Chip('TPU v6e', 918e12, 1640e9, 32 * 2**30, 1.75e9, '2x2'),
}


def find_chip(topology: str) -> Chip:
    """Return the chip of a topology such as 'v5e:2x2'.

    Raises:
      BadInput: It names no TPU in this table.
    """
    kind, _, layout = topology.partition(':')
    if kind not in CHIPS or not layout:
        examples = ', '.join(f'{name}:{chip.example}' for name, chip in CHIPS.items())
        raise BadInput(f'--topology={topology}; it must be a TPU type and a layout:  {examples}')
    return CHIPS[kind]
