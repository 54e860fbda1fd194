"""TensorFlow, set up for this project: the other modules of `data` import `tf` from here."""

import os
from typing import Any

# JAX sets the level to 1 when it is imported, so a 1 is not assumed to be the user's choice.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# The image ops do not use oneDNN, and its startup notice ignores the log level.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import tensorflow as tf

# Otherwise TensorFlow claims the memory of the GPUs that JAX computes on.
tf.config.set_visible_devices([], 'GPU')

TensorLike = Any  # a tensor, or what TensorFlow converts to one: an array, a number, bytes
