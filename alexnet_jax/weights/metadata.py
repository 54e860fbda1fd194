"""What an exported net says about itself, whatever its format."""

from pathlib import Path
from typing import Any

from alexnet_jax.evaluation.trained import TrainedNet
from alexnet_jax.run import checkpoint, workdir


def describe(net: TrainedNet) -> dict[str, Any]:
    """Return the metadata of an export, to be stored as JSON.

    Returns:
      class_names: In label order.
      image_size: The height and width of the input, in pixels.
      eval_ops: What makes an input of an image file.
      config: The run's config.
      source: Where the run's weights came from, if they were converted; else its folder's name and
        the checkpoint's step.
      scores: The checkpoint's evaluation record; empty if it was never evaluated.
    """
    source = workdir.read_source(net.workdir) or {'run': Path(net.workdir).name, 'step': net.step}
    return {
        'class_names': net.class_names,
        'image_size': net.config.image_size,
        'eval_ops': net.config.data.eval_ops,
        'config': net.config.to_dict(),
        'source': source,
        'scores': checkpoint.read_scores(net.workdir).get(net.step, {}),
    }
