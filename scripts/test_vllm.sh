#!/usr/bin/env bash
# The tests with real vLLM on CPUs (pytest's arguments may follow). Where vLLM cannot be installed a loud line says so.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
python=$(scripts/vllm_env.sh) || status=$?
if [ "$status" = 3 ]; then
  echo "################ NOT RUN: the tests with real vLLM (PyTorch's CPU wheel or another one is not at hand) ################"
  exit 0
fi
[ "$status" = 0 ] || exit "$status"
VLLM_PYTHON=$python exec .venv/bin/python -m pytest -m vllm tests/vllm "$@"
