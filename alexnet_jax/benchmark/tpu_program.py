"""What a program compiled for a TPU will cost, read from its text: nothing is run.

XLA gives the scheduled program as HLO text, in which most operations carry the compiler's estimate
of their cycles; libtpu can write the final machine code of each operation to files. `read_program`
puts both together.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

BYTES = {'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2}
BYTES |= {'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8, 'c64': 8}
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# These only give a name to memory.
FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all')
OTHER = 'the rest'  # what belongs to no layer: the input, the loss, the optimizer, copies


@dataclass(frozen=True)
class Op:
    """An operation of a compiled program.

    Attributes:
      name: Its name in the program.
      layer: The network's layer that it belongs to, or OTHER.
      backward: Whether it belongs to the layer's gradient.
      hbm_bytes: The memory that its operands and results fill, with the padding of their layout;
        what stays in the chip's vector memory costs nothing.
      estimated_cycles: The compiler's estimate; 0 if it has none.
      code_cycles: The instructions of its code on a core, each as often as its loop runs.
      sent_bytes: The size of a collective operation's operands; 0 for any other.
    """

    name: str
    layer: str
    backward: bool
    hbm_bytes: float
    estimated_cycles: float
    code_cycles: float
    sent_bytes: float

    def modeled_seconds(self, bandwidth: float, clock: float) -> float:
        """Return the larger of its bytes at full bandwidth and its code at one bundle per cycle."""
        return max(self.hbm_bytes / bandwidth, self.code_cycles / clock)

    def estimated_seconds(self, bandwidth: float, clock: float) -> float:
        """Return the compiler's estimate; that of the model where the compiler has none."""
        if self.estimated_cycles:
            return self.estimated_cycles / clock
        return self.modeled_seconds(bandwidth, clock)


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: list[str]
    line: str


def read_program(hlo: str, code: Mapping[str, 'Code'], layers: Iterable[str]) -> list[Op]:
    """Return the operations of a program, in the order in which they run.

    Args:
      hlo: The text of the scheduled program.
      code: The final code by operation, from `read_code`.
      layers: The names of the network's layers, as in the names of operations.
    """
    computations = dict(_computations(hlo))
    entry = computations.pop('ENTRY')
    find_layer = _LayerFinder(computations, layers)
    shapes = {instruction.name: instruction.shape for instruction in entry}
    ops = []
    for instruction in entry:
        name, shape, opcode, operands, line = instruction
        if opcode in FREE or opcode.endswith('-done'):
            continue
        layer, backward = find_layer(line)
        is_collective = opcode.removesuffix('-start') in COLLECTIVES
        if opcode.endswith('-start') and not is_collective:
            continue  # transfers to and from the vector memory, beside the operations
        touched = [shapes[operand] for operand in operands]
        sent = sum(map(array_bytes, touched)) if is_collective else 0
        if not opcode.endswith('-start') or opcode == 'all-reduce-start':
            touched.append(shape)
        bounds = re.search(r'"iteration_bounds":\[([^\]]*)\]', line)
        trips = math.prod(map(int, re.findall(r'\d+', bounds[1]))) if bounds else 1
        estimated = re.search(r'"estimated_cycles":"(\d+)"', line)
        # On v4 and v5p, the two cores of a chip share the iterations of most operations.
        cores = 2 if '"megacore_split_dim"' in line else 1
        ops.append(
            Op(
                name,
                layer,
                backward,
                hbm_bytes=sum(map(hbm_bytes, touched)),
                estimated_cycles=int(estimated[1]) if estimated else 0,
                code_cycles=code[name].cycles(trips) / cores if name in code else 0,
                sent_bytes=sent,
            )
        )
    return ops


# HLO


def _computations(hlo: str) -> Iterator[tuple[str, list[_Instruction]]]:
    """Yield (name, instructions) of each computation; the main one is called 'ENTRY'."""
    name, found = '', []
    for line in hlo.splitlines():
        if header := re.match(r'(ENTRY )?%?([\w.-]+) \(.*\{$', line):
            name, found = 'ENTRY' if header[1] else header[2], []
        elif line == '}':
            yield name, found
        elif name and (instruction := _parse(line)):
            found.append(instruction)


def _parse(line: str) -> _Instruction | None:
    match = re.match(r'\s+(?:ROOT )?%([\w.-]+) = ', line)
    if not match:
        return None
    rest = line[match.end() :]
    shape = rest[: _closing(rest) + 1] if rest.startswith('(') else rest.split(' ', 1)[0]
    opcode, _, arguments = rest[len(shape) + 1 :].partition('(')
    end = _closing('(' + arguments) - 1
    operands = re.findall(r'%([\w.-]+)', arguments[:end])
    return _Instruction(match[1], shape, opcode, operands, line)


def _closing(text: str) -> int:
    """The index of the parenthesis that closes the one at the start."""
    depth = 0
    for index, character in enumerate(text):
        depth += {'(': 1, ')': -1}.get(character, 0)
        if depth == 0:
            return index
    return len(text)


_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([\d,]*)((?::[^}]*)?)\})?')


def hbm_bytes(shape: str) -> float:
    """Return the bytes that arrays of an HLO shape fill in the chip's main memory.

    The shape says in which order the dimensions lie in memory, the minor one first, and in which
    tiles: bf16[8,200]{1,0:T(8,128)(2,1)} fills 8 x 256 elements. S(1) is the vector memory.
    """
    total = 0.0
    for dtype, sizes, order, tiling in _ARRAY.findall(shape):
        if dtype not in BYTES or re.search(r'S\([1-9]', tiling):
            continue
        dims = [int(size) for size in sizes.split(',') if size]
        physical = [dims[int(i)] for i in reversed(order.split(',')) if i] or dims
        tile = re.search(r'T\(([\d,]+)\)', tiling)
        for i, size in enumerate(reversed(tile[1].split(',')) if tile else (), 1):
            if i <= len(physical):
                physical[-i] = -(-physical[-i] // int(size)) * int(size)
        total += math.prod(physical) * BYTES[dtype]
    return total


def array_bytes(shape: str) -> float:
    """Return the bytes of the arrays of an HLO shape without padding."""
    return sum(
        math.prod(int(size) for size in sizes.split(',') if size) * BYTES[dtype]
        for dtype, sizes, _, _ in _ARRAY.findall(shape)
        if dtype in BYTES
    )


class _LayerFinder:
    """Finds the layer of an instruction, from the names that JAX gave to its parts."""

    def __init__(self, computations: dict[str, list[_Instruction]], layers: Iterable[str]):
        names = '|'.join(map(re.escape, layers))
        self._pattern = re.compile(rf'op_name="[^"]*?(transpose\()?[\w(]*AlexNet\)*/({names})/')
        self._lines = {
            name: [instruction.line for instruction in found]
            for name, found in computations.items()
        }

    def __call__(self, line: str) -> tuple[str, bool]:
        """Return (layer, backward) of an instruction, or of most of what is fused in it."""
        called = re.search(r'calls=%?([\w.-]+)', line)
        inside = self._lines.get(called[1], []) if called else []
        for lines in ([line], inside):
            matches = [match for text in lines if (match := self._pattern.search(text))]
            if matches:
                counts = Counter((match[2], bool(match[1])) for match in matches)
                return counts.most_common(1)[0][0]
        return OTHER, False


# Final code


class Code(NamedTuple):
    """The final code of an operation, in bundles; a bundle is issued in a cycle.

    Attributes:
      once: Bundles outside of its loops.
      repeated: Bundles inside of them.
      trips: How often its loop runs, according to its transfers between memories.
    """

    once: int
    repeated: int
    trips: int

    def cycles(self, trips: int) -> int:
        """Return the cycles that it takes if its loop runs `trips` times, or `self.trips` if more.

        Everything in the loop counts in every iteration, so rarely taken branches count too.
        """
        return self.once + self.repeated * max(trips, self.trips)


_BUNDLE = re.compile(r'\s*(?:0x[0-9a-f]+|0)\s*(?:[A-Z]{2})?\s*: ((?:> ?)*) ?\{')
_BOUNDS = re.compile(r'iteration_bounds: \(([\d, ]+)\)')


def read_code(folder: Path) -> dict[str, Code]:
    """Return the code of each operation that libtpu has written to a folder."""
    found = {}
    for path in folder.glob('*-final_bundles.txt'):
        if match := re.fullmatch(r'\d+-(.*)-\d+-final_bundles\.txt', path.name):
            with path.open() as lines:
                found[match[1]] = count_bundles(lines)
    return found


def count_bundles(lines: Iterable[str]) -> Code:
    """Count the bundles of an operation's final code; `>` marks those in a loop."""
    once = repeated = 0
    trips = 1
    for line in lines:
        if bundle := _BUNDLE.match(line):
            once += not bundle[1]
            repeated += bool(bundle[1])
        elif bounds := _BOUNDS.match(line):
            trips = max(trips, math.prod(int(n) for n in bounds[1].split(',')))
    return Code(once, repeated, trips)
