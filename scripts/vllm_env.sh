#!/usr/bin/env bash
# Makes the environment of the tests with real vLLM, outside of the tree, once: 2.5 GB, a minute or two.
# Prints its Python on stdout. Exit status 3: PyTorch's CPU wheel, or another one of the lock, cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=tests/vllm/requirements.lock
python=${VLLM_BASE_PYTHON:-python3.11} # the wheel of torch is for this version alone
folder=${VLLM_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-epp/vllm}
stamp=$folder/.installed

if [ -x "$folder/bin/python" ] && cmp -s "$lock" "$stamp"; then
  echo "$folder/bin/python"
  exit 0
fi
if ! command -v "$python" >/dev/null; then
  echo "vLLM needs $python, which is not here (VLLM_BASE_PYTHON names another one)" >&2
  exit 3
fi
echo "installing vLLM for CPUs into $folder (2.5 GB, once)" >&2
mkdir -p "$(dirname "$folder")"
"$python" -m venv "$folder"
# --no-deps: what the lock leaves out on purpose (CUDA, triton, torchvision) is not to come back.
if ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$lock" >&2; then
  echo "a wheel of $lock cannot be had here: torch for CPUs is on PyTorch's own index, not on PyPI" >&2
  exit 3
fi
cp "$lock" "$stamp"
echo "$folder/bin/python"
