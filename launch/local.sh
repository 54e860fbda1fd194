#!/usr/bin/env bash
# Set up .venv and train on this machine:
#   bash launch/local.sh                                  the quickstart, in runs/quickstart
#   bash launch/local.sh --config=configs/cifar10.py      another recipe, in runs/cifar10
#   bash launch/local.sh --config=... --workdir=... --config.batch_size=64
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh
use_venv requirements.txt

config=configs/quickstart.py workdir= flag=
for argument in "$@"; do # each of the two once, and first: overrides of a key have to follow
  shift
  argument=$flag$argument flag= # --config FILE is --config=FILE
  case "$argument" in
    --config | --workdir) flag=$argument= ;;
    --config=*) config=${argument#--config=} ;;
    --workdir=*) workdir=${argument#--workdir=} ;;
    *) set -- "$@" "$argument" ;;
  esac
done
[ -z "$flag" ] || set -- "$@" "${flag%=}" # without a value, which is refused
name=$(basename "${config%%:*}" .py)
exec python -m alexnet_jax.main --config="$config" --workdir="${workdir:-runs/$name}" "$@"
