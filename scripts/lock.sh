#!/usr/bin/env bash
# Makes the lists of pinned packages of deploy/Containerfile anew: every version, and the hashes of its files for all platforms.
# Needs uv (pip install uv). With --check: exit status 1 when a list does not fit pyproject.toml any more.
set -euo pipefail
cd "$(dirname "$0")/.."

python=3.13 # the base's in deploy/Containerfile
lock() {
  uv pip compile --quiet --universal --python-version "$python" --generate-hashes --no-header "${newest[@]}" "$@"
}

if [ "${1:-}" = --check ]; then
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  cp deploy/requirements.lock deploy/build.lock "$temporary/"
  out=$temporary
  newest=() # versions that are in a list are kept
else
  out=deploy
  newest=(--upgrade)
fi
lock --extra predictor --extra cel --extra tokenizers --extra otel -o "$out/requirements.lock" pyproject.toml
echo 'hatchling' | lock -o "$out/build.lock" -
if [ "$out" != deploy ]; then
  diff -q "$out/requirements.lock" deploy/requirements.lock
  diff -q "$out/build.lock" deploy/build.lock
fi
