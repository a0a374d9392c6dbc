#!/usr/bin/env bash
# One node with several GPUs, one process: every round is split over all of them.
# Usage, from the repository root: experiments/machines/node.sh UPDATE.safetensors OUT_DIR [DEVICES]
# A run that was stopped goes on where it was; without DEVICES all GPUs of the node are used.
set -euo pipefail
update=$1 out=$2
devices=${3:+--num-devices $3}
# shellcheck disable=SC2086  # two words or none
exec spear-jax reconstruct "$update" --out "$out" --method sampling --sampler walk --max-candidates 100000000000000 \
  --resume $devices
