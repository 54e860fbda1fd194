"""Hybrid parallelism: arrays sliced over the devices, instead of a copy on each.

Convolutions have most of AlexNet's arithmetic and few weights, fully connected layers the reverse.
Data parallelism, which sums every gradient over the devices, suits only the former. Krizhevsky
("One weird trick", 2014, arXiv 1404.5997) divides the weights of the latter over the devices and
moves activations instead.
"""

import functools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.parallel import pmap


class Slices:
    """Which arrays are sliced: the kernels of some layers, their gradients and velocities.

    A kernel [inputs, features] is sliced by rows. While it is trained, it is [devices of this
    process, inputs / devices, features]; within a mapped function, [inputs / devices, features].

    Args:
      layers: The names of the layers. If empty, all arrays are whole: data parallelism.
    """

    def __init__(self, layers: Iterable[str] = ()):
        self._layers = frozenset(layers)

    def __bool__(self) -> bool:
        return bool(self._layers)

    def is_slice(self, path: Sequence[Any]) -> bool:
        """Return whether the array at a path of a tree, (..., 'fc6', 'kernel'), is sliced."""
        layer, name = (getattr(key, 'key', None) for key in (None, None, *path)[-2:])
        return layer in self._layers and name == 'kernel'

    def place(self, tree: Any) -> Any:
        """Copy a tree of whole host arrays onto the devices, as `pmap.replicate` does."""
        whole, slices = self._split(tree)
        return _merge(pmap.replicate(whole), pmap.scatter(slices))

    def placed_shapes(self, tree: Any) -> Any:
        """Return the shapes and dtypes that `place` would give a tree of shapes and dtypes."""
        whole, slices = self._split(tree)
        rows = jax.eval_shape(partial(jax.tree.map, pmap.own_rows), slices)
        return _merge(whole, rows)

    def gather(self, tree: Any) -> Any:
        """Copy a tree so that every device has the whole arrays."""
        return self._gather(self._split(tree)) if self else tree

    @functools.cached_property
    def _gather(self) -> pmap.Mapped:
        all_rows = partial(jax.lax.all_gather, axis_name='batch', tiled=True)
        return pmap.pmapped(
            lambda pair: _merge(pair[0], jax.tree.map(all_rows, pair[1])), ((None, 0),)
        )

    def sum_gradients(self, gradients: Any, dtype: str) -> Any:
        """Sum gradients over the devices; that of a slice is already summed over all examples.

        Args:
          gradients: The tree of gradients.
          dtype: The dtype in which they are sent; float32: their own.
        """
        whole, slices = self._split(gradients)
        sent = whole
        if dtype != 'float32':
            sent = jax.tree.map(lambda g: g.astype(dtype), whole)
        sums = pmap.total(sent)
        sums = jax.tree.map(lambda total, g: total.astype(g.dtype), sums, whole)
        return _merge(sums, slices)

    def total(self, x: jax.Array) -> jax.Array:
        """Sum what each device computed from its slices; without slices, all are equal."""
        return pmap.total(x) if self else x

    def norm(self, path: Sequence[Any], x: jax.Array) -> jax.Array:
        """Return the norm of the array at a path; of the whole array if `x` is a slice."""
        square = jnp.sum(jnp.square(x))
        return jnp.sqrt(self.total(square) if self.is_slice(path) else square)

    def pmapped(self, function: Any, in_axes: Sequence[int | None], donated: Any = ()) -> Any:
        """Map a function as `pmap.pmapped` does; arguments with axis None may contain slices.

        So may the result.
        """
        if not self:
            return pmap.pmapped(function, in_axes, donated=donated)
        return _Mapped(self, function, in_axes, donated)

    def _split(self, tree: Any) -> tuple[Any, Any]:
        """The tree with None for each slice, and with None for all else."""

        def kept(is_slice: bool) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, x: x if self.is_slice(path) is is_slice else None, tree
            )

        return kept(False), kept(True)


class _Mapped:
    """A mapped function whose replicated arguments and result are pairs: whole arrays, slices."""

    def __init__(self, slices: Slices, function: Any, in_axes: Sequence[int | None], donated: Any):
        self._slices, self._in_axes = slices, in_axes

        def on_pairs(*args: Any) -> tuple[Any, Any]:
            merged = (
                _merge(*arg) if axis is None else arg
                for arg, axis in zip(args, in_axes, strict=True)
            )
            return slices._split(function(*merged))

        axes = tuple((None, 0) if axis is None else axis for axis in in_axes)
        self._mapped = pmap.pmapped(on_pairs, axes, (None, 0), donated)

    def _pairs(self, args: Sequence[Any]) -> list[Any]:
        return [
            self._slices._split(arg) if axis is None else arg
            for arg, axis in zip(args, self._in_axes, strict=True)
        ]

    def __call__(self, *args: Any) -> Any:
        return _merge(*self._mapped(*self._pairs(args)))

    def lower(self, *args: Any) -> jax.stages.Lowered:
        return self._mapped.lower(*self._pairs(args))


WHOLE = Slices()


def _merge(whole: Any, slices: Any) -> Any:
    """Undo `Slices._split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, whole, slices, is_leaf=lambda x: x is None
    )
