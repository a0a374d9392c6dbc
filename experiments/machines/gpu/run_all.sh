#!/usr/bin/env bash
# Everything worth knowing of a new device, in one call of under nine minutes: correctness first, then rates.
# Usage, from the repository root, where jax with its CUDA plugin is installed:
#     experiments/machines/gpu/run_all.sh [OUT_DIR]
# Writes OUT_DIR/gpu.jsonl, one JSON object per line; OUT_DIR is experiments/results/lines by default.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=${1:-experiments/results/lines}
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
log=$out/gpu.jsonl

python3 -c 'import jax; print(jax.__version__, jax.devices())'
timeout 120 python3 -m experiments.machines.gpu.correctness | tee -a "$log"

# Candidates per second of pivot walk and flat kernel against batched SVD, LU and QR on the same device.
for size in "200 20" "400 25" "2000 25"; do
  read -r width rank <<<"$size"
  timeout 60 python3 -m spear_jax bench sampling --width "$width" --batch-size "$rank" --chunk-size 65536 --json | tee -a "$log" ||
    echo "{\"experiment\": \"bench sampling\", \"width\": $width, \"rank\": $rank, \"error\": \"failed or timed out\"}" | tee -a "$log"
done
# Sampling alone, b = 20 to 33 at m = 2000.
timeout 130 python3 -m experiments.machines.gpu.long_searches --seconds 90 | tee -a "$log" ||
  echo '{"experiment": "long searches", "error": "failed or timed out"}' | tee -a "$log"
# Whole batches by the dictionary method.
timeout 150 python3 -m experiments.machines.gpu.large_batches --seconds 100 | tee -a "$log" ||
  echo '{"experiment": "large batches", "error": "failed or timed out"}' | tee -a "$log"
echo "written: $log"
