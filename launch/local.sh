#!/usr/bin/env bash
# Set up .venv and train on this machine:
#   bash launch/local.sh                                  the quickstart, in runs/quickstart
#   bash launch/local.sh --config=configs/cifar10.py      another recipe, in runs/cifar10
#   bash launch/local.sh --config=... --workdir=... --config.batch_size=64
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh
use_venv requirements.txt

config=configs/quickstart.py workdir=
for argument in "$@"; do # each of the two once, and first: overrides of a key have to follow
  shift
  case "$argument" in
    --config=*) config=${argument#--config=} ;;
    --workdir=*) workdir=${argument#--workdir=} ;;
    *) set -- "$@" "$argument" ;;
  esac
done
name=$(basename "${config%%:*}" .py)
exec python -m alexnet_jax.main --config="$config" --workdir="${workdir:-runs/$name}" "$@"
