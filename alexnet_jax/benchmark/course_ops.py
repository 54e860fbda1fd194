"""The course's ops as other pipelines take them, for comparing like with like."""

import re
from typing import NamedTuple

# By which those pipelines normalize: of ImageNet's pixels, from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CourseOps(NamedTuple):
    """Resize, crop, mirror.

    Attributes:
      resize: The shorter side after the resize, bilinear.
      center: The side of the center crop that follows, if there is one.
      crop: The side of the random crop.
    """

    resize: int
    center: int | None
    crop: int


def parse(train_ops: str) -> CourseOps | None:
    """Return what a config's ops are, if they are the course's."""
    found = re.fullmatch(
        r'decode(?:\(\w+\))?\|resize_short\((\d+)\)(?:\|center_crop\((\d+)\))?'
        r'\|random_crop\((\d+)\)\|random_mirror',
        train_ops,
    )
    if not found:
        return None
    resize, center, crop = found.groups()
    return CourseOps(int(resize), int(center) if center else None, int(crop))
