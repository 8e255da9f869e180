"""The clusters of a bootstrap: where Envoy connects to. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from epp.envoy.forms import TYPE, JsonObject, extension, seconds, socket_address, split_address
from epp.envoy.options import BootstrapOptions, RoundRobinOptions, Upstream

UPSTREAM_CLUSTER = "model_servers"
EPP_CLUSTER = "epp"
LB_NAMESPACE = "envoy.lb"
DESTINATION = "x-gateway-destination-endpoint"
DESTINATION_SERVED = "x-gateway-destination-endpoint-served"


# As many as the EPP allows on a connection; by itself Envoy 1.40 opens another one from 1024 on.
_EPP_STREAMS = 4096


def epp_cluster(options: BootstrapOptions) -> JsonObject:
    """The EPP: HTTP/2, with or without TLS."""
    cluster: JsonObject = {
        "name": EPP_CLUSTER,
        **_lookup(options.epp),
        "lb_policy": "LEAST_REQUEST",
        **_common(options),
        "typed_extension_protocol_options": _http_options({"http2_protocol_options": _epp_http2(options)}),
        "load_assignment": _assignment(EPP_CLUSTER, [options.epp]),
    }
    if options.epp_tls:
        cluster["transport_socket"] = _tls(options)
    return cluster


def _epp_http2(options: BootstrapOptions) -> JsonObject:
    protocol: JsonObject = {"max_concurrent_streams": _EPP_STREAMS}
    if options.epp_keepalive_s:
        every = seconds(options.epp_keepalive_s)
        protocol["connection_keepalive"] = {"interval": every, "timeout": every}
    return protocol


def upstream_cluster(options: BootstrapOptions | RoundRobinOptions) -> JsonObject:
    """The model servers."""
    common = {
        "name": UPSTREAM_CLUSTER,
        **_common(options),
        "typed_extension_protocol_options": _upstream_http(options),
    }
    if isinstance(options, RoundRobinOptions):
        return common | _static(options.endpoints) | {"lb_policy": "ROUND_ROBIN"}
    if options.upstream is Upstream.OVERRIDE_HOST:
        known = _by_name(options.endpoints_dns) if options.endpoints_dns else _static(options.endpoints)
        return common | known | {"load_balancing_policy": _override_host()}
    return common | {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }


def _tls(options: BootstrapOptions) -> JsonObject:
    # A validation context without a trusted CA accepts every certificate.
    validation: JsonObject = {}
    name = options.epp_server_name
    if options.epp_ca is not None:
        validation["trusted_ca"] = {"filename": options.epp_ca}
        if name is not None:
            validation["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": name}}]
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        **({} if name is None else {"sni": name}),
        common_tls_context={"alpn_protocols": ["h2"], "validation_context": validation},
    )


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
    return {"typed_extension_config": extension(f"envoy.{full_name}", f"{full_name}.v3.{message}", **fields)}


def _lb_key(key: str) -> JsonObject:
    """A MetadataKey of the namespace that the endpoint picker protocol uses."""
    return {"key": LB_NAMESPACE, "path": [{"key": key}]}


def _common(options: BootstrapOptions | RoundRobinOptions) -> JsonObject:
    limits = {"max_connections": options.max_connections} | dict.fromkeys(
        ("max_pending_requests", "max_requests", "max_retries"), options.max_requests
    )
    return {
        "connect_timeout": seconds(options.connect_timeout_s),
        "per_connection_buffer_limit_bytes": options.buffer_limit_bytes,
        "circuit_breakers": {"thresholds": [limits]},
    }


def _static(endpoints: Sequence[str]) -> JsonObject:
    return {"type": "STATIC", "load_assignment": _assignment(UPSTREAM_CLUSTER, endpoints)}


def _by_name(address: str) -> JsonObject:
    """Every address that DNS gives for the name is an endpoint, on the same port."""
    lookup = {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    return lookup | {"load_assignment": _assignment(UPSTREAM_CLUSTER, [address])}


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
    message: JsonObject = {"@type": f"{TYPE}.{name}", "explicit_http_config": protocol}
    if requests_per_connection is not None:
        message["common_http_protocol_options"] = {"max_requests_per_connection": requests_per_connection}
    return {f"envoy.{name}": message}


def _lookup(address: str) -> JsonObject:
    """How the host of ``host:port`` becomes an address."""
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # By default Envoy takes IPv6 addresses where there are any: for localhost one on which an EPP may not listen.
        return {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    return {"type": "STATIC"}
