"""Envoy's own ext_proc messages, as recorded descriptors: those of the distribution xds-protos 1.85.0 (Apache-2.0).

Installed, that distribution would put modules into the place of OpenTelemetry's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_RECORDED: Final = Path(__file__).parents[1] / "fixtures" / "protos" / "xds-protos-1.85.0.binpb"


def know() -> None:
    """Make them known to this process, as importing their modules would."""
    pool = descriptor_pool.Default()
    for file in FileDescriptorSet.FromString(_RECORDED.read_bytes()).file:
        try:
            pool.FindFileByName(file.name)
        except KeyError:
            pool.Add(file)
