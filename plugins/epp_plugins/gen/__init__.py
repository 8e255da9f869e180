"""Protobuf stubs of the gRPC bodies that parsers read. Written by scripts/protos.sh from protos/; not edited by hand."""
