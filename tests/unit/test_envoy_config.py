"""Generated Envoy configuration: what a bootstrap says. Whether Envoy accepts it is for the integration tests."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.envoy import BodyMode, BootstrapOptions, RoundRobinOptions, Upstream, bootstrap, round_robin_bootstrap
from epp.envoy.clusters import socket_address

EPP = "127.0.0.1:9002"
ENDPOINTS = ("127.0.0.1:8001", "127.0.0.1:8002")


def http_filters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every HTTP filter's configuration by the filter's name, in the order in which they run."""
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return {entry["name"]: entry["typed_config"] for entry in manager["http_filters"]}


def ext_proc(options: BootstrapOptions) -> dict[str, Any]:
    return http_filters(bootstrap(options))["envoy.filters.http.ext_proc"]


def clusters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}


def addresses(cluster: dict[str, Any]) -> list[str]:
    sockets = [
        entry["endpoint"]["address"]["socket_address"]
        for group in cluster["load_assignment"]["endpoints"]
        for entry in group["lb_endpoints"]
    ]
    return [f"{socket['address']}:{socket['port_value']}" for socket in sockets]


def test_both_bodies_are_full_duplex_unless_told_otherwise() -> None:
    mode = ext_proc(BootstrapOptions(epp=EPP))["processing_mode"]

    assert (mode["request_body_mode"], mode["response_body_mode"]) == ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")


@given(request=st.sampled_from(BodyMode), response=st.sampled_from(BodyMode))
def test_each_direction_has_its_own_body_mode(request: BodyMode, response: BodyMode) -> None:
    mode = ext_proc(BootstrapOptions(epp=EPP, request_body=request, response_body=response))["processing_mode"]

    assert (mode["request_body_mode"], mode["response_body_mode"]) == (request.name, response.name)


def test_trailers_are_sent_in_every_mode_because_they_keep_the_stream_open_until_the_answer_ends() -> None:
    mode = ext_proc(BootstrapOptions(epp=EPP, response_body=BodyMode.NONE))["processing_mode"]

    assert mode["response_trailer_mode"] == "SEND"


def test_the_metadata_of_the_endpoint_picker_protocol_flows_both_ways() -> None:
    options = ext_proc(BootstrapOptions(epp=EPP))["metadata_options"]

    assert options["forwarding_namespaces"]["untyped"] == ["envoy.lb", "envoy.lb.subset_hint"]
    assert options["receiving_namespaces"]["untyped"] == ["envoy.lb"]


def test_failing_open_and_mode_override_are_off_unless_asked_for() -> None:
    by_default = ext_proc(BootstrapOptions(epp=EPP))
    asked_for = ext_proc(BootstrapOptions(epp=EPP, failure_mode_allow=True, allow_mode_override=True))

    assert (by_default["failure_mode_allow"], by_default["allow_mode_override"]) == (False, False)
    assert (asked_for["failure_mode_allow"], asked_for["allow_mode_override"]) == (True, True)


def test_the_message_timeout_is_a_json_duration() -> None:
    assert ext_proc(BootstrapOptions(epp=EPP, message_timeout_s=0.25))["message_timeout"] == "0.250s"


def test_a_subset_hint_is_set_before_the_epp_is_asked() -> None:
    filters = http_filters(bootstrap(BootstrapOptions(epp=EPP, subset_hint_header="x-subset")))

    assert list(filters) == ["envoy.filters.http.lua", "envoy.filters.http.ext_proc", "envoy.filters.http.router"]


def test_original_dst_takes_the_address_from_the_epps_header() -> None:
    cluster = clusters(bootstrap(BootstrapOptions(epp=EPP)))["model_servers"]

    assert cluster["type"] == "ORIGINAL_DST"
    assert cluster["original_dst_lb_config"]["http_header_name"] == "x-gateway-destination-endpoint"


def test_override_host_reads_header_then_metadata_and_records_who_served() -> None:
    options = BootstrapOptions(epp=EPP, upstream=Upstream.OVERRIDE_HOST, endpoints=ENDPOINTS)
    cluster = clusters(bootstrap(options))["model_servers"]
    policy = cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]

    assert [next(iter(source)) for source in policy["override_host_sources"]] == ["header", "metadata"]
    assert policy["selected_host_key"] == {
        "key": "envoy.lb",
        "path": [{"key": "x-gateway-destination-endpoint-served"}],
    }
    assert addresses(cluster) == list(ENDPOINTS)


def test_override_host_without_endpoints_is_refused_early() -> None:
    with pytest.raises(ValueError, match="name at least one"):
        BootstrapOptions(epp=EPP, upstream=Upstream.OVERRIDE_HOST)


def test_tls_to_the_epp_is_spoken_only_when_asked_for() -> None:
    plain = clusters(bootstrap(BootstrapOptions(epp=EPP)))["epp"]
    tls = clusters(bootstrap(BootstrapOptions(epp=EPP, epp_tls=True)))["epp"]

    assert "transport_socket" not in plain
    assert tls["transport_socket"]["typed_config"]["common_tls_context"] == {
        "alpn_protocols": ["h2"],
        "validation_context": {},
    }


def test_the_round_robin_bootstrap_asks_no_epp() -> None:
    config = round_robin_bootstrap(RoundRobinOptions(endpoints=ENDPOINTS))

    assert list(http_filters(config)) == ["envoy.filters.http.router"]
    assert list(clusters(config)) == ["model_servers"]
    assert clusters(config)["model_servers"]["lb_policy"] == "ROUND_ROBIN"


def test_round_robin_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="name at least one"):
        RoundRobinOptions(endpoints=())


def test_everything_listens_on_loopback_only() -> None:
    config: dict[str, Any] = bootstrap(BootstrapOptions(epp=EPP, listen_port=8081, admin_port=0))

    assert config["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 0}
    assert config["static_resources"]["listeners"][0]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 8081,
    }


@given(
    request=st.sampled_from(BodyMode),
    upstream=st.sampled_from(Upstream),
    tls=st.booleans(),
    http2=st.booleans(),
    fresh=st.booleans(),
    retries=st.integers(0, 3),
    header=st.sampled_from([None, "x-subset"]),
)
def test_any_bootstrap_survives_json(
    request: BodyMode, upstream: Upstream, tls: bool, http2: bool, fresh: bool, retries: int, header: str | None
) -> None:
    config = bootstrap(
        BootstrapOptions(
            epp=EPP,
            endpoints=ENDPOINTS,
            request_body=request,
            upstream=upstream,
            epp_tls=tls,
            upstream_http2=http2,
            fresh_upstream_connections=fresh,
            retries=retries,
            subset_hint_header=header,
        )
    )

    assert json.loads(json.dumps(config)) == config


@given(address=st.ip_addresses(), port=st.integers(0, 65535))
def test_any_ip_and_port_becomes_a_socket_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)

    assert socket_address(f"{host}:{port}") == {"socket_address": {"address": str(address), "port_value": port}}


@pytest.mark.parametrize("malformed", ["", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:-1"])
def test_a_malformed_address_is_named_in_the_error(malformed: str) -> None:
    with pytest.raises(ValueError, match="is not an address of the form ip:port") as caught:
        bootstrap(BootstrapOptions(epp=malformed))

    assert repr(malformed) in str(caught.value)
