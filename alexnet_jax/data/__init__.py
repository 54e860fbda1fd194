"""The input pipeline: encoded images in, batches out. TensorFlow is used in this folder only."""
