"""The experiments by name, in the order in which they are worth running."""

from alexnet_jax.experiments import (
    ablations,
    authors_logs,
    dropout_ensemble,
    features,
    finetuning,
    gradients,
    jpeg,
    relu_vs_tanh,
    toolbox,
)
from alexnet_jax.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    'jpeg': jpeg.EXPERIMENT,
    'authors_logs': authors_logs.EXPERIMENT,
    'norms': ablations.NORMS,
    'norms_across': ablations.NORMS_ACROSS,
    'dropout': ablations.DROPOUT,
    'relu_vs_tanh': relu_vs_tanh.EXPERIMENT,
    **ablations.PUBLISHED,
    'overlapping_pools': ablations.OVERLAPPING_POOLS,
    'max_pools': ablations.MAX_POOLS,
    'augmentation': ablations.AUGMENTATION,
    **features.EXPERIMENTS,
    'gradients': gradients.EXPERIMENT,
    'dropout_ensemble': dropout_ensemble.EXPERIMENT,
    'color_shift': ablations.COLOR_SHIFT,
    'lenet': ablations.LENET,
    'depth': ablations.DEPTH,
    'finetuning': finetuning.EXPERIMENT,
    'norm_and_pool': ablations.NORM_AND_POOL,
    'dropout_folder': ablations.DROPOUT_FOLDER,
    'toolbox': toolbox.EXPERIMENT,
}
