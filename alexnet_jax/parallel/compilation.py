"""How steps are compiled: XLA's options, and the cache that keeps them for the next process."""

import os
from collections.abc import Callable

import jax

from alexnet_jax.parallel import malloc

# jaxlib 0.10 sends convolutions on a CPU to YNNPACK, whose weight gradients are slow: the course
# net trains 24.2 images/s instead of 17 with Eigen's.
YNN = 'xla_cpu_experimental_ynn_fusion_type'
OPTIONS = {'cpu': {YNN: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}}  # by platform

CACHE = '~/.cache/alexnet_jax'


def enable_compilation_cache() -> None:
    """Keep compiled steps for the next process, in JAX_COMPILATION_CACHE_DIR if that is set.

    Compiling the course net's steps takes 4 s on a CPU, reading them back 0.4 s.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(CACHE))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def executable(function) -> Callable:
    """A jitted or pmapped function, compiled at its first call with OPTIONS; XLA_FLAGS win."""
    platform = jax.default_backend()
    options = OPTIONS.get(platform, {}) if jax.__version__.startswith('0.10.') else {}
    options = {k: v for k, v in options.items() if k not in os.environ.get('XLA_FLAGS', '')}
    # What is compiled ahead takes global arrays, where with several processes a batch is a
    # process's own: there pmap compiles for itself, without options.
    compiled = None if options and jax.process_count() == 1 else function
    # On a CPU every execution in flight holds its temporaries (1.6 GB at batch 128), and simulated
    # devices starve each other of threads in the middle of a psum until XLA aborts the process.
    in_turn = platform == 'cpu'

    def call(*args):
        nonlocal compiled
        if compiled is None:
            compiled = function.lower(*args).compile(compiler_options=options)
            malloc.trim_heap()
        result = compiled(*args)
        return jax.block_until_ready(result) if in_turn else result

    return call
