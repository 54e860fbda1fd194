"""What several tests share."""

from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

# A Python that notes how it was called: the launch scripts run on it.
STAND_IN = """#!/usr/bin/env bash
{ printf '%s\\n' "$(basename "$0")" "$@"; echo --; } >> "$CALLS"
case "$*" in
  '--version') echo Python 3.9.1 ;;
  '-c '*) exit "${OLD:-0}" ;;
  '-m venv '*)
    mkdir -p "$3/bin"
    for name in python ruff pyright; do cp "$0" "$3/bin/$name"; done ;;
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
