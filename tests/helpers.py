"""What several tests share."""

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.errors import BadInput, RunError

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
  'check .') exit "${RUFF:-0}" ;;
  '-m alexnet_jax.main '* | '-m pytest'*) exit "${MAIN:-0}" ;;
esac
"""


def assert_has(text: str, *parts: str) -> None:
    """A message has all of these parts: the key, the value, the remedy."""
    missing = [part for part in parts if part not in text]
    assert not missing, text


def refused(call: Callable[[], object], exit_code: int) -> str:
    """The message of the error that a call ends with; its exit code has to be this one."""
    with pytest.raises((BadInput, RunError)) as found:
        call()
    assert found.value.exit_code == exit_code
    return str(found.value)


def assert_within(actual, desired, fraction: float) -> None:
    """Two arrays differ by at most a fraction of the largest magnitude in the second."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    scale = np.abs(desired).max()
    assert actual.shape == desired.shape
    assert scale > 0
    assert np.abs(actual - desired).max() <= fraction * scale


def free_disk(monkeypatch, size: int | Callable[[], int]) -> None:
    """Let every disk have so many bytes free, now or whenever it is looked at."""
    free = size if callable(size) else lambda: size
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=free()))


def encode(pixels: np.ndarray, form: str = 'PNG', **options) -> bytes:
    """Return an image as the file that Pillow writes with these options."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


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
