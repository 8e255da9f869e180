"""Protobuf stubs of gRPC health checking. Written by scripts/protos.sh from protos/; not edited by hand."""
