"""Generated Envoy configuration: what a bootstrap says. Whether Envoy accepts it is for the integration tests."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.envoy import (
    BodyMode,
    BootstrapOptions,
    RoundRobinOptions,
    Upstream,
    bootstrap,
    filter_and_routes,
    round_robin_bootstrap,
)
from epp.envoy.forms import seconds, socket_address
from epp.envoy.modes import Readers, RequestBodies, ResponseBodies, choose

EPP = "127.0.0.1:9002"
ENDPOINTS = ("127.0.0.1:8001", "127.0.0.1:8002")


DENOMINATORS = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
PARSING = Readers(request=("openai-parser",), response=("openai-parser",))
BLIND = Readers()
WATCHING = Readers(pieces=("chunk-counter",))
FULL, NONE, BUFFERED, STREAMED = (
    BodyMode.FULL_DUPLEX_STREAMED,
    BodyMode.NONE,
    BodyMode.BUFFERED,
    BodyMode.STREAMED,
)


def manager(config: dict[str, Any]) -> dict[str, Any]:
    (listener,) = config["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def http_filters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every HTTP filter's configuration by the filter's name, in the order in which they run."""
    return {entry["name"]: entry["typed_config"] for entry in manager(config)["http_filters"]}


def routes(options: BootstrapOptions) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manager(bootstrap(options))["route_config"]["virtual_hosts"][0]["routes"]
    return found


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
    assert ext_proc(BootstrapOptions(epp=EPP, message_timeout_s=0.25))["message_timeout"] == "0.25s"


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


def test_a_ca_makes_envoy_verify_the_epp_and_a_server_name_whom_it_talks_to() -> None:
    options = BootstrapOptions(epp="epp.ns:9002", epp_tls=True, epp_ca="/ca.pem", epp_server_name="epp.ns")
    tls = clusters(bootstrap(options))["epp"]["transport_socket"]["typed_config"]

    assert tls["sni"] == "epp.ns"
    assert tls["common_tls_context"]["validation_context"] == {
        "trusted_ca": {"filename": "/ca.pem"},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "epp.ns"}}],
    }


@pytest.mark.parametrize(
    ("epp", "kind"), [("10.0.0.1:9002", "STATIC"), ("[::1]:9002", "STATIC"), ("epp.ns.svc:9002", "STRICT_DNS")]
)
def test_an_epp_that_is_named_is_looked_up(epp: str, kind: str) -> None:
    assert clusters(bootstrap(BootstrapOptions(epp=epp)))["epp"]["type"] == kind


def test_breakers_and_timeouts_are_those_asked_for() -> None:
    options = BootstrapOptions(
        epp=EPP, max_connections=7, max_requests=9, connect_timeout_s=0.5, request_timeout_s=60, retries=2
    )
    both = clusters(bootstrap(options)).values()
    (route,) = routes(options)

    assert [c["connect_timeout"] for c in both] == ["0.5s", "0.5s"]
    # Envoy's own limit of 3 retries at a time would make a lost endpoint felt by all but three requests.
    limits = {"max_connections": 7, "max_pending_requests": 9, "max_requests": 9, "max_retries": 9}
    assert [c["circuit_breakers"]["thresholds"] for c in both] == [[limits], [limits]]
    assert (route["route"]["timeout"], route["route"]["retry_policy"]["num_retries"]) == ("60s", 2)


def test_request_ids_of_clients_are_left_alone() -> None:
    found = manager(bootstrap(BootstrapOptions(epp=EPP)))

    assert found["preserve_external_request_id"] is True
    assert found["request_id_extension"]["typed_config"]["pack_trace_reason"] is False


def test_histograms_are_kept_when_asked_for() -> None:
    assert "stats_config" in bootstrap(BootstrapOptions(epp=EPP))
    assert "stats_config" not in bootstrap(BootstrapOptions(epp=EPP, histograms=True))


# --- response bodies of a sample -----------------------------------------------------------------------------------------


def test_a_sample_is_a_first_route_that_overrides_a_filter_which_sends_no_response_bodies() -> None:
    options = BootstrapOptions(epp=EPP, response_body_fraction=0.1, retries=1)
    sample, others = routes(options)
    override = sample["typed_per_filter_config"]["envoy.filters.http.ext_proc"]["overrides"]["processing_mode"]
    by_default = ext_proc(options)["processing_mode"]

    assert (by_default["response_body_mode"], override["response_body_mode"]) == ("NONE", "FULL_DUPLEX_STREAMED")
    assert by_default | {"response_body_mode": "FULL_DUPLEX_STREAMED"} == override
    assert "typed_per_filter_config" not in others
    assert "runtime_fraction" not in others["match"]
    assert sample["route"] == others["route"]


@given(fraction=st.one_of(st.floats(0, 1), st.integers(0, 10_000).map(lambda n: n / 10_000)))
def test_any_fraction_is_said_to_the_millionth(fraction: float) -> None:
    sample, _ = routes(BootstrapOptions(epp=EPP, response_body_fraction=fraction))
    said = sample["match"]["runtime_fraction"]["default_value"]

    assert abs(said["numerator"] / DENOMINATORS[said["denominator"]] - fraction) <= 5e-7


def test_the_fraction_can_be_changed_through_the_admin_port() -> None:
    options = BootstrapOptions(epp=EPP, response_body_fraction=0.1)
    layers = bootstrap(options)["layered_runtime"]

    assert routes(options)[0]["match"]["runtime_fraction"]["runtime_key"] == "epp.response_bodies"
    assert layers == {"layers": [{"name": "admin", "admin_layer": {}}]}


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"is not in 0\.\.1"):
        BootstrapOptions(epp=EPP, response_body_fraction=fraction)


def test_filter_and_routes_are_those_of_the_whole_bootstrap() -> None:
    options = BootstrapOptions(epp=EPP, response_body_fraction=0.1)
    whole = manager(bootstrap(options))

    part = filter_and_routes(options)

    assert part["http_filters"] == whole["http_filters"][:-1]
    assert part["routes"] == whole["route_config"]["virtual_hosts"][0]["routes"]


def test_the_epp_is_asked_again_elsewhere_only_where_that_is_wanted() -> None:
    once = ext_proc(BootstrapOptions(epp=EPP))["grpc_service"]
    again = ext_proc(BootstrapOptions(epp=EPP, epp_retries=2))["grpc_service"]

    assert "retry_policy" not in once
    assert again["retry_policy"]["num_retries"] == 2
    assert "previous_hosts" in again["retry_policy"]["retry_host_predicate"][0]["name"]


# --- which bodies to send ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readers", "fail_open", "modes"),
    [
        (PARSING, False, (FULL, FULL)),
        (PARSING, True, (BUFFERED, STREAMED)),
        (BLIND, False, (NONE, NONE)),
        (BLIND, True, (NONE, NONE)),
        (WATCHING, False, (NONE, FULL)),
        (WATCHING, True, (NONE, STREAMED)),
    ],
)
def test_by_default_what_is_read_is_sent(readers: Readers, fail_open: bool, modes: tuple[BodyMode, BodyMode]) -> None:
    chosen = choose(readers, fail_open=fail_open)

    assert (chosen.request, chosen.response) == modes
    assert chosen.response_fraction is None
    assert chosen.warnings == ()


def test_responses_have_no_parser_where_requests_are_not_sent() -> None:
    assert choose(PARSING, request=RequestBodies.NONE).response is NONE


@given(
    readers=st.sampled_from([PARSING, BLIND, WATCHING]),
    request=st.sampled_from(RequestBodies),
    response=st.sampled_from(ResponseBodies),
    fail_open=st.booleans(),
)
def test_what_is_asked_for_is_what_one_gets(
    readers: Readers, request: RequestBodies, response: ResponseBodies, fail_open: bool
) -> None:
    fraction = 0.25 if response is ResponseBodies.SAMPLED else None
    asked_request = {RequestBodies.ALL: FULL, RequestBodies.BUFFERED: BUFFERED, RequestBodies.NONE: NONE}
    sent = STREAMED if fail_open else FULL
    asked_response = {ResponseBodies.ALL: sent, ResponseBodies.SAMPLED: sent, ResponseBodies.NONE: NONE}

    chosen = choose(readers, request=request, response=response, fraction=fraction, fail_open=fail_open)

    assert chosen.request is asked_request.get(request, chosen.request)
    assert chosen.response is asked_response.get(response, chosen.response)
    assert chosen.response_fraction == fraction


@pytest.mark.parametrize(
    ("readers", "asked", "said"),
    [
        (PARSING, {"request": RequestBodies.NONE}, "openai-parser would read them"),
        (PARSING, {"request": RequestBodies.ALL, "fail_open": True}, "use buffered"),
        (BLIND, {"response": ResponseBodies.ALL}, "nothing in the configuration reads them"),
        (BLIND, {"response": ResponseBodies.SAMPLED, "fraction": 0.1}, "nothing in the configuration reads them"),
    ],
)
def test_a_choice_that_does_not_fit_comes_with_a_warning(readers: Readers, asked: dict[str, Any], said: str) -> None:
    (warning,) = choose(readers, **asked).warnings

    assert said in warning


def test_the_reason_says_what_is_lost() -> None:
    _, without = choose(PARSING, response=ResponseBodies.NONE).why
    _, sampled = choose(WATCHING, response=ResponseBodies.SAMPLED, fraction=0.005).why

    assert "no token counts" in without
    assert "for 0.5 % of requests" in sampled
    assert "nothing for chunk-counter" in sampled


# --- everything ----------------------------------------------------------------------------------------------------------


@given(duration_s=st.floats(0, 1e6))
def test_durations_are_right_to_the_millisecond(duration_s: float) -> None:
    assert abs(float(seconds(duration_s).removesuffix("s")) - duration_s) <= 0.0005001


def test_everything_listens_on_loopback_only_unless_told_otherwise() -> None:
    config: dict[str, Any] = bootstrap(BootstrapOptions(epp=EPP, listen_port=8081, admin_port=0))

    assert config["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 0}
    assert config["static_resources"]["listeners"][0]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 8081,
    }


def test_of_the_admin_pages_only_those_for_probes_are_elsewhere() -> None:
    options = BootstrapOptions(epp=EPP, admin_port=19000, probes_host="0.0.0.0", probes_port=19001)

    config: dict[str, Any] = bootstrap(options)

    _, probes = config["static_resources"]["listeners"]
    assert probes["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 19001}
    manager = probes["filter_chains"][0]["filters"][0]["typed_config"]
    [host] = manager["route_config"]["virtual_hosts"]
    assert [route["match"] for route in host["routes"]] == [{"path": "/ready"}, {"path": "/stats/prometheus"}]
    assert config["static_resources"]["clusters"][-1]["name"] == host["routes"][0]["route"]["cluster"]
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_listener_and_admin_may_be_elsewhere() -> None:
    config: dict[str, Any] = bootstrap(BootstrapOptions(epp=EPP, listen_host="::", admin_host="10.0.0.1"))

    assert config["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] == "::"
    assert config["admin"]["address"]["socket_address"]["address"] == "10.0.0.1"


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


@pytest.mark.parametrize(
    "malformed", ["", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:-1", "127.0.0.1:²"]
)
def test_a_malformed_address_is_named_in_the_error(malformed: str) -> None:
    with pytest.raises(ValueError, match="is not an address of the form ip:port") as caught:
        bootstrap(BootstrapOptions(epp=malformed))

    assert repr(malformed) in str(caught.value)
