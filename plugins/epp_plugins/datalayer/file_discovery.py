"""file-discovery: endpoints from a file instead of Kubernetes."""

from __future__ import annotations

import msgspec

from epp.api import ConfigError, Handle, Plugin


class FileDiscovery(Plugin):
    """Says which file lists the endpoints, and whether to follow its changes; the service's discovery reads it.

    Parameters are those of the Go EPP's file-discovery.
    """

    type = "file-discovery"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        path: str
        watch_file: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.path:
            raise ConfigError("path: must name a file")
