"""metrics-data-source: how the metrics pages of the model servers are fetched."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from epp.api import ConfigError, Handle, Plugin
from epp_plugins.durations import seconds


class MetricsDataSource(Plugin):
    """Says how to fetch; the service's collector fetches. `interval_s` is 0 where the service's own interval applies.

    Parameters are those of the Go EPP's metrics-data-source; `port` 0 means the port of the endpoint itself.
    """

    type = "metrics-data-source"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        scheme: Literal["http", "https"] = "http"
        path: str = "/metrics"
        port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
        insecure_skip_verify: bool = True
        ca_cert_path: str = ""
        client_cert_path: str = ""
        client_key_path: str = ""
        interval: str = ""  # a duration (`200ms`)

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.path.startswith("/"):
            raise ConfigError(f"path: expected a path that begins with a slash, got {params.path!r}")
        if bool(params.client_cert_path) != bool(params.client_key_path):
            raise ConfigError("clientCertPath and clientKeyPath belong together; set both or none")
        self.interval_s = seconds(params.interval, parameter="interval") if params.interval else 0.0
        if params.interval and not self.interval_s:
            raise ConfigError("interval: must be more than 0")
