"""Protobuf stubs of ext_proc. Written by scripts/protos.sh from protos/; not edited by hand."""
