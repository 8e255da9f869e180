"""What one may choose about a generated Envoy configuration. Names and meanings follow Envoy's own API where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DAY_S = 86400.0
LOOPBACK = "127.0.0.1"


class BodyMode(StrEnum):
    """How Envoy sends a body to the EPP (processing_mode.proto, BodySendMode)."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"


class Upstream(StrEnum):
    """How Envoy gets from the EPP's answer to a connection."""

    ORIGINAL_DST = "original_dst"
    """Connects to the address in the header, whatever it is. One address only; no fallback; no served metadata."""

    OVERRIDE_HOST = "override_host"
    """Picks the named endpoint from those it was given: header first, then metadata, then round robin. Takes a list, which
    retries walk down, and records the endpoint that served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proxy:
    """What both kinds of bootstrap have in common."""

    listen_host: str = LOOPBACK
    """An IP address."""

    listen_port: int = 0
    """0 takes a free one, which the admin page /listeners?format=json tells."""

    admin_host: str = LOOPBACK
    """An IP address. Who reaches the admin port can stop Envoy and change its run-time settings."""

    admin_port: int = 0
    """0 takes a free one, which Envoy writes to the file named by --admin-address-path."""

    probes_host: str | None = None
    """An IP address on which two of the admin pages can be read, /ready and /stats/prometheus. None: nowhere."""

    probes_port: int = 0
    """Needs an `admin_port` that is not 0."""

    upstream_http2: bool = False
    """Speak HTTP/2 without TLS to the endpoints; else HTTP/1.1."""

    fresh_upstream_connections: bool = False
    """Use every upstream connection once. For servers that close a kept-alive connection without announcing it, such as
    llama.cpp after a streamed answer: a request sent into that close is lost, and answered with 503."""

    retries: int = 0
    """How many more endpoints to try when one cannot be reached. A request that one has begun is never sent again."""

    connect_timeout_s: float = 5.0
    """For connections to endpoints and to the EPP; above 0."""

    request_timeout_s: float = DAY_S
    """From the end of a request to the end of its answer; 0: no limit."""

    max_connections: int = 40_000
    """Circuit breaker of each cluster."""

    max_requests: int = 40_000
    """Circuit breaker of each cluster, for requests under way, waiting and tried again. Envoy's own default of 1024 refuses
    requests under load; the EPP's flow control is what should do that."""

    buffer_limit_bytes: int = 8 * 1024 * 1024
    """Per connection, each direction. Where a mode must hold a whole body, a longer one fails: 413 for a request, 500 for
    an answer. Elsewhere it bounds how much is read at once, and so how large a body message gets."""

    histograms: bool = False
    """Keep statistics of times and sizes too. They are what costs; counters are next to free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapOptions(_Proxy):
    """An Envoy that asks an EPP about each request."""

    epp: str
    """``host:port`` of the ext_proc service. A host that is not an IP address is looked up in DNS, again and again."""

    epp_tls: bool = False
    """Use TLS to the EPP, and accept any certificate unless `epp_ca` is given."""

    epp_ca: str | None = None
    """File, as Envoy sees it, with the CA certificates one of which must have signed the EPP's."""

    epp_server_name: str | None = None
    """DNS name to ask for (SNI) and, with `epp_ca`, to find in the EPP's certificate."""

    epp_keepalive_s: float = 0.0
    """How often to send a PING to the EPP, and how long to wait for its answer before the connection is given up, as when the
    EPP's machine is gone. 0: never. Beware of gRPC servers that take often repeated PINGs for abuse; `epp run` does not."""

    upstream: Upstream = Upstream.ORIGINAL_DST
    endpoints: tuple[str, ...] = ()
    """``ip:port`` of every endpoint. Needed for OVERRIDE_HOST, unused by ORIGINAL_DST."""

    endpoints_dns: str | None = None
    """Instead of `endpoints`: ``name:port`` whose addresses are looked up again and again, as of a headless Service."""

    request_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    response_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    response_body_fraction: float | None = None
    """Send response bodies, in the mode `response_body`, for this fraction of requests and none for the rest; 0..1 in steps
    of 1e-6. None: for all. Can be changed while Envoy runs: see `epp.envoy.routes.FRACTION_KEY`."""

    message_timeout_s: float = 1000.0
    """How long Envoy waits for each answer, for the modes in which it waits; at most an hour."""

    failure_mode_allow: bool = False
    """Let a request pass, without a pick, when the EPP cannot be asked; else it fails. Envoy 1.40 fails it all the same once
    it has sent body to the EPP in FULL_DUPLEX_STREAMED, of which it keeps no copy: with a dead EPP only requests without a
    body pass there, and answers whose body has begun are cut."""

    epp_retries: int = 0
    """How often to ask again, at another address of the EPP where it has one, when one is gone before it has answered.
    Envoy keeps what it has sent for that, up to 64 KiB of a request; a longer one is not asked again."""

    allow_mode_override: bool = False
    """Obey ``mode_override`` in the EPP's answers to headers."""

    subset_hint_header: str | None = None
    """Request header whose comma-separated value becomes the subset hint, so that a client can play the gateway.
    A blank one sets none."""

    def __post_init__(self) -> None:
        if self.probes_host is not None and not self.admin_port:
            raise ValueError("admin_port: the pages for probes are read from it, so it has to be known; 0 is not")
        if self.upstream is Upstream.OVERRIDE_HOST and not (self.endpoints or self.endpoints_dns):
            raise ValueError("endpoints: override_host chooses among endpoints that it is given; name at least one")
        fraction = self.response_body_fraction
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"response_body_fraction: {fraction:g} is not in 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobinOptions(_Proxy):
    """A plain Envoy that asks nobody: what an EPP is compared with."""

    endpoints: tuple[str, ...]
    """``ip:port`` of every endpoint."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("endpoints: there is nothing to balance over; name at least one")
