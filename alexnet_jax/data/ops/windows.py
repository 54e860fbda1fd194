"""Crops and mirrors of many images, as numbers: what is cut out of each, before any pixel moves."""

import dataclasses

import numpy as np


class BadImage(ValueError):
    """An op refuses an image; never raised inside tf.data."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """The part of each image that is left, and whether it is to be mirrored, left to right.

    Attributes:
      start: Top and left in the image's own pixels, int64 [b, 2]. A window may reach beyond a
        padded image; there it is black.
      size: Height and width, int64 [b, 2].
      mirror: bool [b].
    """

    start: np.ndarray
    size: np.ndarray
    mirror: np.ndarray

    @classmethod
    def whole(cls, sizes: np.ndarray) -> 'Windows':
        """Return the whole images, whose heights and widths are int64 [b, 2]."""
        return cls(np.zeros_like(sizes), sizes, np.zeros(len(sizes), bool))

    def crop(self, offset: np.ndarray, size: int) -> 'Windows':
        """Return the squares of this size at top and left `offset`, int64 [b, 2], as it looks now.

        Raises:
          BadImage: A window is smaller than that.
        """
        room = self.size - size
        if (room < 0).any():
            raise BadImage(f'an image is smaller than {size} x {size}')
        top, left = offset.T
        left = np.where(self.mirror, room[:, 1] - left, left)
        start = self.start + np.stack([top, left], 1)
        return dataclasses.replace(self, start=start, size=np.full_like(self.size, size))

    def shift(self, offset: np.ndarray) -> 'Windows':
        """Return the windows moved down and to the right by int64 [b, 2], as it looks now."""
        sign = np.stack([np.ones(len(offset), np.int64), np.where(self.mirror, -1, 1)], 1)
        return dataclasses.replace(self, start=self.start + sign * offset)

    def flip(self, flipped: np.ndarray) -> 'Windows':
        """Return the windows with those mirrored, once more, for which bool [b] is true."""
        return dataclasses.replace(self, mirror=self.mirror ^ flipped)
