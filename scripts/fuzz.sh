#!/usr/bin/env bash
# Fuzzes every target: scripts/fuzz.sh [SECONDS for each, default 20] [TARGET ...]
# FUZZ_SEED makes the same inputs again (0, the default: others each time).
# New inputs go to build/fuzz/TARGET (used again by the next run), findings to build/fuzz/TARGET-crash-*.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-20}"
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(frames hpack protobuf conversation kv_events)
python="${FUZZ_PYTHON:-.venv/bin/python}"

if ! "$python" -c 'import atheris' 2>/dev/null; then
  echo "SKIPPED fuzzing: atheris cannot be imported by $("$python" -V 2>&1) at $python (pip install atheris)" >&2
  exit 0
fi
failed=()
for target in "${targets[@]}"; do
  found="build/fuzz/$target"
  mkdir -p "$found"
  echo "fuzzing $target for $seconds s"
  if ! nice -n 10 "$python" -m tests.fuzz "$target" -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -timeout=20 -rss_limit_mb=2048 \
    -artifact_prefix="$found-" "$found" "tests/fuzz/corpus/$target" >"$found.log" 2>&1; then
    failed+=("$target")
    sed -n '/Uncaught Python exception/,$p' "$found.log" | head -n 60
    tail -n 5 "$found.log"
  else
    tail -n 1 "$found.log"
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "findings in: ${failed[*]}; the inputs are build/fuzz/*-crash-*, *-timeout-* or *-oom-*" >&2
  exit 1
fi
