"""TensorFlow, set up for this project: the other modules of `data` import `tf` from here."""

import os
from collections.abc import Callable
from typing import Any

# JAX sets the level to 1 when it is imported, so a 1 is not assumed to be the user's choice.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# The image ops do not use oneDNN, and its startup notice ignores the log level.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

# Else TensorFlow imports Keras, and Keras SciPy, scikit-learn and Matplotlib where they are
# installed: 40% of the time that the import takes. `tf.keras` reads the variable anew.
_keras = os.environ.get('TF_USE_LEGACY_KERAS')
os.environ['TF_USE_LEGACY_KERAS'] = '1'
try:
    import tensorflow as tf
finally:
    del os.environ['TF_USE_LEGACY_KERAS']
    if _keras is not None:
        os.environ['TF_USE_LEGACY_KERAS'] = _keras

# Otherwise TensorFlow claims the memory of the GPUs that JAX computes on.
tf.config.set_visible_devices([], 'GPU')

TensorLike = Any  # a tensor, or what TensorFlow converts to one: an array, a number, bytes
PARALLEL = 64  # iterations of a `tf.map_fn`, for which its default of 10 leaves cores idle


def compiled(function: Callable, *specs: 'tf.TensorSpec') -> Any:
    """Return the graph of a function of tensors like these; call it from any thread.

    Unlike a `tf.function` it does not warn that other graphs of the same lines were made before.
    """
    function = tf.function(function, input_signature=specs, autograph=False)
    return function.get_concrete_function()
