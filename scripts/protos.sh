#!/usr/bin/env bash
# Writes the protobuf stubs from protos/ into the packages that use them.
#
#   scripts/protos.sh                      lint with buf, then write the stubs
#   scripts/protos.sh --check              write nothing; fail when a committed stub differs from what would be written
#   scripts/protos.sh [--check] --with X   X is buf, protoc, or auto (the default)
#
# auto is buf when npx can run it, and bare protoc otherwise; --check with auto tries both. Both give the same bytes:
# the compiler behind both is one pinned protoc, fetched once by pip into build/, apart from the grpcio-tools that may
# be installed. It is pinned because a stub refuses to be loaded by a protobuf runtime older than its compiler:
# protoc 31.1 asks for protobuf 6.31.1, and works with every protobuf 6 and 7 from there on.
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3).
set -euo pipefail

BUF_VERSION=1.75.0
GRPCIO_TOOLS_VERSION=1.76.0
PROTOC_VERSION="libprotoc 31.1"

# proto file, and the package that its stub goes to
STUBS=(
  "llmepp/ext_proc/v3/ext_proc.proto epp/extproc/gen"
  "llmepp/health/v1/health.proto epp/server/gen"
  "llmepp/vllm/vllm_engine.proto plugins/epp_plugins/gen"
  "llmepp/vertexai/vertexai_prediction.proto plugins/epp_plugins/gen"
)

fail() {
  echo "protos.sh: $*" >&2
  exit 1
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
check=no
with=auto
while [ $# -gt 0 ]; do
  case "$1" in
    --check) check=yes ;;
    --with) with="${2:-}"; shift ;;
    *) fail "unknown argument \"$1\", expected --check or --with buf|protoc|auto" ;;
  esac
  shift
done
case "$with" in buf | protoc | auto) ;; *) fail "--with \"$with\", expected buf, protoc or auto" ;; esac

if [ -n "${PYTHON:-}" ]; then :; elif [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
# buf.gen.yaml starts the compiler as "python": make that the interpreter chosen here.
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$("$PYTHON" -c 'import sys; print(sys.executable)')" >"$work/bin/python"
chmod +x "$work/bin/python"
export PATH="$work/bin:$PATH"

# A compiled extension for one Python does not load in another: one folder for each.
compiler="$PWD/build/protoc-$GRPCIO_TOOLS_VERSION-$(python -c 'import sys; print(sys.implementation.cache_tag)')"
if [ ! -d "$compiler" ]; then
  python -m pip install --quiet --no-deps --only-binary :all: --target "$work/compiler" \
    "grpcio-tools==$GRPCIO_TOOLS_VERSION" || fail "pip could not fetch grpcio-tools $GRPCIO_TOOLS_VERSION"
  mkdir -p build
  mv "$work/compiler" "$compiler"
fi
export PYTHONPATH="$compiler"

protoc() { python -c 'import sys; from grpc_tools import protoc; sys.exit(protoc.main(sys.argv))' "$@"; }
[ "$(protoc --version)" = "$PROTOC_VERSION" ] || fail "$compiler has $(protoc --version), expected $PROTOC_VERSION"

buf() { npx --yes --loglevel=error "@bufbuild/buf@$BUF_VERSION" "$@"; }

generate_with_buf() {
  buf lint protos
  buf generate protos --template protos/buf.gen.yaml -o "$1"
}

generate_with_protoc() {
  local files=()
  local stub
  for stub in "${STUBS[@]}"; do files+=("${stub% *}"); done
  # By way of a descriptor set, as buf does it: that way the stubs hold JSON names, and the bytes are the same.
  protoc -Iprotos "-I$compiler/grpc_tools/_proto" --include_imports "--descriptor_set_out=$1/set" "${files[@]}"
  protoc "--descriptor_set_in=$1/set" "--python_out=$1" "--pyi_out=$1" "${files[@]}"
}

# With --check compares, otherwise copies, what lies under $1.
deliver() {
  local stub source suffix target stale=no
  for stub in "${STUBS[@]}"; do
    source="$1/${stub% *}"
    for suffix in _pb2.py _pb2.pyi; do
      target="${stub#* }/$(basename "${source%.proto}")$suffix"
      # protoc writes bare Mapping, which mypy --strict rejects.
      if [ "$suffix" = _pb2.pyi ]; then sed -i '1i # mypy: disable-error-code="type-arg"' "${source%.proto}$suffix"; fi
      if [ "$check" = no ]; then
        cp "${source%.proto}$suffix" "$target"
      elif ! cmp -s "${source%.proto}$suffix" "$target"; then
        echo "protos.sh: $target differs from what protos/ gives; run make protos" >&2
        stale=yes
      fi
    done
  done
  [ "$stale" = no ]
}

generators=("$with")
if [ "$with" = auto ]; then
  if buf --version >/dev/null 2>&1; then generators=(buf); else generators=(protoc); fi
  if [ "$check" = yes ] && [ "${generators[0]}" = buf ]; then generators+=(protoc); fi
fi
for generator in "${generators[@]}"; do
  mkdir "$work/$generator"
  "generate_with_$generator" "$work/$generator"
  deliver "$work/$generator"
  echo "protos.sh: ${#STUBS[@]} stubs $([ "$check" = yes ] && echo 'up to date' || echo 'written') ($generator)"
done
