#!/usr/bin/env bash
# Train on a Cloud TPU VM or slice, with the same command on every host. Three lines to edit:
NAME=alexnet
ZONE=us-central1-a
PROJECT=my-project
# Then, with the flags of alexnet_jax.main and a workdir in a bucket, or one that all hosts share:
#   bash launch/tpu.sh --config=configs/imagenet_bf16.py --workdir=gs://BUCKET/imagenet_bf16 \
#       --config.data.name=prepared:/mnt/imagenet2012-256-jpeg95
#   bash launch/tpu.sh stop          all hosts save and exit; the first command resumes
# Ctrl-C ends this script but not the training; each host keeps its log in ~/alexnet.log. Create the
# TPU first (gcloud compute tpus tpu-vm create, or a queued resource).
set -euo pipefail
cd "$(dirname "$0")/.."

on_all_hosts() {
  local verb=$1 what=$2
  shift 2
  gcloud compute tpus tpu-vm "$verb" "$what" "$@" \
    --zone="$ZONE" --project="$PROJECT" --worker=all
}

if [ "${1:-}" = stop ]; then
  on_all_hosts ssh "$NAME" --command='kill -TERM "$(cat ~/alexnet.pid)"'
  exit
fi

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
revision=$(git rev-parse HEAD)$(git diff --quiet HEAD -- alexnet_jax configs || echo -dirty)
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done | # not deleted
  tar --null -czf "$archive" -T -
on_all_hosts scp "$archive" "$NAME:alexnet.tar.gz"

# In the background and without a terminal, so that training outlives the connection.
train=$(printf '%q ' "$@")
on_all_hosts ssh "$NAME" --command="
  set -eu
  if kill -0 \"\$(cat ~/alexnet.pid 2>&1)\" 2> /dev/null; then
    echo 'error: this host is already training; stop it with: bash launch/tpu.sh stop' >&2; exit 2
  fi
  # What was deleted or renamed here must not be found there; data and runs stay.
  rm -rf ~/alexnet/alexnet_jax ~/alexnet/configs
  mkdir -p ~/alexnet && tar -xzf ~/alexnet.tar.gz -C ~/alexnet && cd ~/alexnet
  command -v python3.11 > /dev/null || sudo apt-get install -qy python3.11-venv
  sed -n 's/^jax==/jax[tpu]==/p' requirements.txt > tpu.txt
  sed -n 's/^gcs = .\"\(.*\)\".$/\1/p' pyproject.toml >> tpu.txt # for workdirs in buckets
  . launch/venv.sh && PYTHON=python3.11 use_venv requirements.txt tpu.txt
  : > ~/alexnet.log # before the training that fills it: tail could be the first to look
  export ALEXNET_JAX_REVISION=$revision # the archive has no .git
  nohup python -m alexnet_jax.main $train >> ~/alexnet.log 2>&1 < /dev/null &
  echo \$! > ~/alexnet.pid
  tail --pid=\$! -n +1 -f ~/alexnet.log
  wait \$!"
