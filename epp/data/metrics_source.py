"""Where metrics pages are fetched from (metrics-data-source), and the TLS context for it. Reads certificate files, no more."""

from __future__ import annotations

import ssl
from typing import Literal

import msgspec

from epp.api import ConfigError, Endpoint, check_path, host_port


class MetricsSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Parameters of `metrics-data-source`, by their configuration names."""

    scheme: Literal["http", "https"] = "http"
    path: str | None = None  # None: the engine's own
    port: int | None = None  # None (or 0): the endpoint's metrics address as it is
    insecure_skip_verify: bool = True
    ca_cert_path: str = ""
    client_cert_path: str = ""
    client_key_path: str = ""
    bearer_token_path: str = ""  # a file, read again when it changes
    accept: str = "text/plain;version=0.0.4,*/*;q=0.1"
    address_label: str = ""  # labels of an endpoint that, where it has them, say where to fetch instead
    port_label: str = ""
    use_node_address: bool = False

    def __post_init__(self) -> None:
        if self.path is not None:
            check_path(self.path)
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"metrics-data-source: port {self.port} is not in 0..65535")

    def address(self, endpoint: Endpoint) -> tuple[str, int]:
        """IP and port of the endpoint's metrics page."""
        host, _, port = endpoint.metrics_host_port.rpartition(":")
        if self.use_node_address and endpoint.node_address:
            host = endpoint.node_address
        host = endpoint.labels.get(self.address_label) or host.strip("[]")
        labelled = endpoint.labels.get(self.port_label, "")
        if labelled.isascii() and labelled.isdigit() and 1 <= int(labelled[:6]) <= 65535:
            return host, int(labelled)
        return host, self.port or int(port)

    def request(self, endpoint: Endpoint, path: str, *, token: str = "") -> bytes:
        """The bytes of a GET for the endpoint's page; `path` is the engine's own, `token` a bearer token."""
        path = self.path or path
        if not path.startswith("/"):
            path = "/" + path
        host = host_port(*self.address(endpoint))
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: llm-epp\r\n{authorization}"
            f"Accept: {self.accept}\r\nAccept-Encoding: identity\r\n\r\n"
        )
        return head.encode()

    def tls_context(self) -> ssl.SSLContext | None:
        """None for http. Raises ConfigError when a certificate file cannot be used."""
        if self.scheme == "http":
            return None
        context = ssl.create_default_context()
        ca, cert, key = self.ca_cert_path, self.client_cert_path, self.client_key_path
        try:
            where = f"caCertPath: {ca}"
            if ca:
                context.load_verify_locations(ca)
            where = f"clientCertPath, clientKeyPath: {cert}, {key}"
            if cert:
                context.load_cert_chain(cert, key or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{where} cannot be used: {error.strerror or error}") from error
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
