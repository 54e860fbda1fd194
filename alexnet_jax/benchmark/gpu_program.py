"""What a program compiled for a GPU will cost, read from its text: nothing is run.

Unlike a TPU's, it neither has the compiler's estimates nor shows how fast its code is: products
with weights are calls of cuDNN, cuBLAS and Triton, which are chosen when it first runs. So the time
of a product is taken from its operations, and the time of everything else from its bytes.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from alexnet_jax.benchmark.chips import Gpu
from alexnet_jax.benchmark.tpu_program import Op, read_program
from alexnet_jax.errors import RunError

PRODUCTS = ('cudnn-conv', 'cublas', 'gemm_fusion')  # how XLA's names of products begin


def read_gpu_program(
    hlo: str, layers: Sequence[str], flops: Mapping[tuple[str, bool], int], chip: Gpu, peak: float
) -> list[Op]:
    """Return the operations of a program, in the order in which they run.

    The code of a product takes the cycles that its operations take at the peak rate; the products
    of a layer's gradients are equally large, and so are those of its towers.

    Args:
      hlo: The text of the scheduled program.
      layers: The names of the network's layers.
      flops: The operations in products by layer and direction (whether it is backward).
      chip: The GPU.
      peak: Operations per second of such products.

    Raises:
      RunError: A layer's products were not found.
    """
    ops = read_program(hlo, {}, layers)
    products = [op for op in ops if op.name.startswith(PRODUCTS)]
    counts = Counter((op.layer, op.backward) for op in products)
    for (layer, backward), count in flops.items():
        if count and not counts[layer, backward]:
            direction = 'backward' if backward else 'forward'
            raise RunError(f'found no product of {layer} ({direction}) in the compiled program')

    def with_cycles(op: Op) -> Op:
        if op not in products:
            return op
        key = op.layer, op.backward
        return dataclasses.replace(
            op, code_cycles=flops.get(key, 0) / counts[key] / peak * chip.clock
        )

    return [with_cycles(op) for op in ops]
