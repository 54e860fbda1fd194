#!/usr/bin/env bash
# Set up .venv, check the code and test it:
#   bash launch/test.sh           everything, expensive tests at a small seeded dose
#   bash launch/test.sh --fast    only tests that start no process and take no seconds
#   bash launch/test.sh --all     the full counts
# Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh
use_venv requirements.txt tests/requirements.txt

ruff check .
ruff format --check .
case " $* " in *' --fast '*) ;; *) pyright --project . ;; esac  # it takes 15 s
# One file per process, so that a file's fixtures are made only once. Files run in pytest's order:
# xdist would start those with the most tests first, but the longest tests are in files with few.
# One process more than cores, as tests wait for the programs that they start.
cores=$(getconf _NPROCESSORS_ONLN)
processes=$((cores < 4 ? cores + 1 : 4))
exec python -m pytest --numprocesses="$processes" --dist=loadfile --no-loadscope-reorder "$@"
