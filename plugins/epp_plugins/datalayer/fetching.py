"""What data sources have in common: where to fetch from, and how to check what a configuration says about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from epp.api import ConfigError, DataSource, Fetch, Handle, check_path
from epp_plugins.durations import seconds
from epp_plugins.faults import about

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class HttpParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Parameters of every source. `port` 0 means that of the endpoint's metrics; `interval` is a duration (`200ms`)."""

    scheme: Literal["http", "https"] = "http"
    path: str = "/metrics"
    port: Port = 0
    insecure_skip_verify: bool = True
    ca_cert_path: str = ""
    client_cert_path: str = ""
    client_key_path: str = ""
    bearer_token_path: str = ""
    interval: str = ""


class HttpDataSource(DataSource):
    """Base of the sources: checks the parameters and makes a Fetch of them."""

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.path.startswith("/"):
            raise ConfigError(f"path: expected a path that begins with a slash, got {params.path!r}")
        with about("path"):
            check_path(params.path)
        if bool(params.client_cert_path) != bool(params.client_key_path):
            raise ConfigError("clientCertPath and clientKeyPath belong together; set both or none")
        self.interval_s = seconds(params.interval, parameter="interval") if params.interval else 0.0
        if params.interval and not self.interval_s:
            raise ConfigError("interval: must be more than 0")

    def fetch(self) -> Fetch:
        params = self.params
        return Fetch(
            path=params.path,
            scheme=params.scheme,
            port=params.port,
            interval_s=self.interval_s,
            insecure_skip_verify=params.insecure_skip_verify,
            ca_cert_path=params.ca_cert_path,
            client_cert_path=params.client_cert_path,
            client_key_path=params.client_key_path,
            bearer_token_path=params.bearer_token_path,
        )
