#!/usr/bin/env bash
# Set up .venv, lint and test:
#   bash launch/test.sh           everything, expensive tests at a small seeded dose
#   bash launch/test.sh --all     the full counts
# Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh
use_venv requirements.txt tests/requirements.txt

ruff check .
ruff format --check .
# A file to a process: fixtures of a file are made once.
exec python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
