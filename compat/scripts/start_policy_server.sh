#!/usr/bin/env bash
# Starts IL-Studio's policy server; --model_path is start_policy_server.py's --model_name_or_path, everything else is passed on.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=()
for argument in "$@"; do
    case $argument in
        --model_path) arguments+=(--model_name_or_path) ;;
        --model_path=*) arguments+=("--model_name_or_path=${argument#*=}") ;;
        *) arguments+=("$argument") ;;
    esac
done
exec "${PYTHON:-python}" start_policy_server.py ${arguments[@]+"${arguments[@]}"}
