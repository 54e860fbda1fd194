"""What a command sets before JAX starts its devices."""

from alexnet_jax.parallel import compilation, hardware, malloc


def configure_runtime(
    deterministic: bool = False, shares_gpu: bool = True, has_others: bool = False
) -> None:
    """Apply the performance settings of training, so that steps are the same programs everywhere.

    Args:
      deterministic: The config's, in a command that trains.
      shares_gpu: Whether to take a GPU's memory as it is needed, perhaps beside a run that trains.
      has_others: Whether this is one of several processes that train together.
    """
    if shares_gpu:
        hardware.share_gpu()
    malloc.configure_malloc()
    compilation.set_xla_flags(deterministic)
    compilation.enable_compilation_cache(has_others)
