"""What several tests share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A Python that notes how it was called: the launch scripts run on it.
STAND_IN = """#!/usr/bin/env bash
{ printf '%s\\n' "$(basename "$0")" "$@"; echo --; } >> "$CALLS"
case "$*" in
  '--version') echo Python 3.9.1 ;;
  '-c '*) exit "${OLD:-0}" ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/ruff" ;;
  '-m pip '*) exit "${PIP:-0}" ;;
  '-m alexnet_jax.main '* | '-m pytest'*) exit "${MAIN:-0}" ;;
esac
"""
