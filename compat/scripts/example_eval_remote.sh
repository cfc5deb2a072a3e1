#!/usr/bin/env bash
# An evaluation against a running policy server; change the lines below, or give options, which win.
set -euo pipefail
cd "$(dirname "$0")/.."

SERVER="localhost:5000"
ENV="aloha"
NUM_ROLLOUT=4
NUM_ENVS=2
CHUNK_SIZE=64
OUTPUT_DIR="results/remote_eval"

exec "${PYTHON:-python}" eval_remote.py \
    --model_name_or_path "$SERVER" \
    --env "$ENV" \
    --num_rollout "$NUM_ROLLOUT" \
    --num_envs "$NUM_ENVS" \
    --chunk_size "$CHUNK_SIZE" \
    --output_dir "$OUTPUT_DIR" \
    "$@"
