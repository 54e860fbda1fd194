"""What several tests share."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

# A Python that notes how it was called: the launch scripts run on it.
STAND_IN = """#!/usr/bin/env bash
{ printf '%s\\n' "$(basename "$0")" "$@"; echo --; } >> "$CALLS"
case "$*" in
  '--version') echo Python 3.9.1 ;;
  '-c import pip') exit "${NO_PIP:-0}" ;;
  '-c '*) exit "${OLD:-0}" ;;
  '-m venv '*)
    mkdir -p "$3/bin"
    for name in python ruff pyright; do cp "$0" "$3/bin/$name"; done ;;
  '-m ensurepip') exit "${NO_ENSUREPIP:-0}" ;;
  '-m pip '*) exit "${PIP:-0}" ;;
  '-m alexnet_jax.main '* | '-m pytest'*) exit "${MAIN:-0}" ;;
esac
"""


def assert_has(text: str, *parts: str) -> None:
    """A message has all of these parts: the key, the value, the remedy."""
    missing = [part for part in parts if part not in text]
    assert not missing, text


def assert_within(actual, desired, fraction: float) -> None:
    """Two arrays differ by at most a fraction of the largest magnitude in the second."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    scale = np.abs(desired).max()
    assert actual.shape == desired.shape
    assert scale > 0
    assert np.abs(actual - desired).max() <= fraction * scale


def write_images(folder: Path, files: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Write noise as {name: (height, width), ...}; returns the pixels of each."""
    rng = np.random.RandomState(0)
    pixels = {}
    for name, (height, width) in files.items():
        pixels[name] = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[name]).save(path)
    return pixels
