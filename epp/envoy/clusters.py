"""The clusters of a bootstrap: where Envoy connects to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from epp.envoy.options import BootstrapOptions, RoundRobinOptions, Upstream

JsonObject = dict[str, object]

UPSTREAM_CLUSTER = "model_servers"
EPP_CLUSTER = "epp"
LB_NAMESPACE = "envoy.lb"
DESTINATION = "x-gateway-destination-endpoint"
DESTINATION_SERVED = "x-gateway-destination-endpoint-served"

_TYPE = "type.googleapis.com/envoy"
_CONNECT_TIMEOUT = "5s"
# Envoy's own default of 1024 refuses requests under load; the EPP's flow control is what should do that.
_BREAKER_LIMIT = 40000


def socket_address(address: str) -> JsonObject:
    """``ip:port``, an IPv6 address in brackets, as Envoy's Address. Raises ValueError on anything else."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isdecimal()):
        raise ValueError(f"{address!r} is not an address of the form ip:port")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def epp_cluster(options: BootstrapOptions) -> JsonObject:
    """The EPP: HTTP/2, with or without TLS."""
    cluster: JsonObject = {
        "name": EPP_CLUSTER,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        **_common(options.buffer_limit_bytes),
        "typed_extension_protocol_options": _http_options({"http2_protocol_options": {}}),
        "load_assignment": _assignment(EPP_CLUSTER, [options.epp]),
    }
    if options.epp_tls:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                # A validation context without a trusted CA accepts every certificate.
                "common_tls_context": {"alpn_protocols": ["h2"], "validation_context": {}},
            },
        }
    return cluster


def upstream_cluster(options: BootstrapOptions | RoundRobinOptions) -> JsonObject:
    """The model servers."""
    common = {
        "name": UPSTREAM_CLUSTER,
        **_common(options.buffer_limit_bytes),
        "typed_extension_protocol_options": _upstream_http(options),
    }
    if isinstance(options, RoundRobinOptions):
        return common | _static(options.endpoints) | {"lb_policy": "ROUND_ROBIN"}
    if options.upstream is Upstream.OVERRIDE_HOST:
        return common | _static(options.endpoints) | {"load_balancing_policy": _override_host()}
    return common | {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }


def _override_host() -> JsonObject:
    return {
        "policies": [
            _policy(
                "override_host",
                "OverrideHost",
                override_host_sources=[{"header": DESTINATION}, {"metadata": _lb_key(DESTINATION)}],
                selected_host_key=_lb_key(DESTINATION_SERVED),
                fallback_policy={"policies": [_policy("round_robin", "RoundRobin")]},
            )
        ]
    }


def _policy(name: str, message: str, **fields: object) -> JsonObject:
    """One entry of a LoadBalancingPolicy."""
    full_name = f"load_balancing_policies.{name}"
    config = {"@type": f"{_TYPE}.extensions.{full_name}.v3.{message}", **fields}
    return {"typed_extension_config": {"name": f"envoy.{full_name}", "typed_config": config}}


def _lb_key(key: str) -> JsonObject:
    """A MetadataKey of the namespace that the endpoint picker protocol uses."""
    return {"key": LB_NAMESPACE, "path": [{"key": key}]}


def _common(buffer_limit_bytes: int) -> JsonObject:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _BREAKER_LIMIT)
    return {
        "connect_timeout": _CONNECT_TIMEOUT,
        "per_connection_buffer_limit_bytes": buffer_limit_bytes,
        "circuit_breakers": {"thresholds": [limits]},
    }


def _static(endpoints: Sequence[str]) -> JsonObject:
    return {"type": "STATIC", "load_assignment": _assignment(UPSTREAM_CLUSTER, endpoints)}


def _assignment(cluster: str, addresses: Sequence[str]) -> JsonObject:
    endpoints = [{"endpoint": {"address": socket_address(address)}} for address in addresses]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}


def _upstream_http(options: BootstrapOptions | RoundRobinOptions) -> JsonObject:
    if options.upstream_http2:
        protocol: JsonObject = {"http2_protocol_options": {}}
    else:
        protocol = {"http_protocol_options": {"enable_trailers": True}}
    return _http_options(protocol, requests_per_connection=1 if options.fresh_upstream_connections else None)


def _http_options(protocol: JsonObject, *, requests_per_connection: int | None = None) -> JsonObject:
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    message: JsonObject = {"@type": f"{_TYPE}.{name}", "explicit_http_config": protocol}
    if requests_per_connection is not None:
        message["common_http_protocol_options"] = {"max_requests_per_connection": requests_per_connection}
    return {f"envoy.{name}": message}
