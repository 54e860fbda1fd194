"""The input pipeline: the only package of the project that imports TensorFlow."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Unused by the image ops, and its announcement at start-up ignores the log level.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import tensorflow as tf

# TensorFlow would take the memory of the GPUs that JAX computes on.
tf.config.set_visible_devices([], 'GPU')
