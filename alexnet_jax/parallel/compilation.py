"""How steps are compiled: XLA's flags, and the cache that keeps them for the next process."""

import os

import jax

from alexnet_jax.parallel import hardware

# jaxlib 0.10 sends convolutions on a CPU to YNNPACK, whose weight gradients are slow: the course
# net trains 24.2 images/s instead of 17 with Eigen's. XLA aborts on a flag that it does not know.
CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
DETERMINISTIC_FLAG = '--xla_gpu_deterministic_ops=true'

CACHE = '~/.cache/alexnet_jax'


def set_xla_flags(deterministic: bool = False) -> None:
    """Add to XLA_FLAGS what training needs; call it before JAX starts its devices.

    Flags and not compiler options, which pmap takes from one process only: so one process and
    several compile the same program. What the user has set in XLA_FLAGS wins.

    Args:
      deterministic: Whether sums on a GPU give the same bits in every run.
    """
    flags = [DETERMINISTIC_FLAG] if deterministic else []
    if jax.__version__.startswith('0.10.'):
        flags.append(CPU_FLAG)
    given = os.environ.get('XLA_FLAGS', '')
    missing = [flag for flag in flags if flag.split('=')[0] not in given]
    os.environ['XLA_FLAGS'] = ' '.join([*given.split(), *missing])


def enable_compilation_cache(has_others: bool = False) -> None:
    """Keep compiled steps for the next process, in JAX_COMPILATION_CACHE_DIR if that is set.

    Compiling the course net's steps takes 4 s on a CPU, reading them back 0.4 s.

    By default, several processes with GPUs have no cache. They compile together: each times
    a share of the kernels and waits for the others' results, for up to a day. But only process 0
    writes the cache. Where the others do not see its folder, process 0 reads what they have to
    compile, and they wait for a share that it never computes.

    Args:
      has_others: Whether this is one of several processes that train together.
    """
    if has_others and hardware.has_nvidia_gpu():
        return
    if not jax.config.values['jax_compilation_cache_dir']:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(CACHE))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
