"""`epp envoy-config`: an Envoy configuration for an EndpointPickerConfig, with the body modes that its plugins need."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import yaml

from epp import version
from epp.api import ConfigError, Fleet, host_port
from epp.app import ALWAYS_PREDICTING, make_registry
from epp.cli.flags import (
    Flag,
    Group,
    HelpRequested,
    Parsed,
    UsageError,
    choice,
    described,
    duration,
    items,
    number,
    parse_flags,
    size,
    switch,
    text,
)
from epp.cli.options import latency_predictor_enabled
from epp.cli.problems import print_problems
from epp.config import (
    Environment,
    InvalidConfig,
    Pipeline,
    body_needs,
    build,
    load_default,
    load_file,
    load_text,
    resolved_of,
)
from epp.discovery.static import parse_endpoints
from epp.envoy import BootstrapOptions, Upstream, bootstrap, filter_and_routes
from epp.envoy.forms import JsonObject, split_address
from epp.envoy.modes import Modes, Readers, RequestBodies, ResponseBodies, choose
from epp.envoy.routes import FRACTION_KEY
from epp.observability.bodies import parsers_of_responses, readers_of_pieces
from epp.observability.metrics import Recorder

_SAMPLED: Final = "sampled="
_RESPONSE_UNIT: Final = "auto|all|none|sampled=FRACTION"
_MOST_MESSAGE_TIMEOUT_S: Final = 3600  # ext_proc.proto
_MOST_COUNT: Final = 2**32 - 1  # counts are uint32 in Envoy's API

_INTRO: Final = """\
Usage: epp envoy-config [flags] [FILE]

Writes an Envoy bootstrap that asks an EPP about each request, with the body modes that the plugins of the EndpointPickerConfig
FILE need. Without FILE: the built-in default.

Response bodies cost Envoy and the EPP something for every piece of an answer. --response-bodies is one of
  auto         all when a parser or another plugin of the configuration reads them, else none. Parsers read them for the
               metrics of tokens and to give a rewritten model its old name back; only passthrough-parser does not.
  all          of every request
  none         of no request: no token metrics and no time to first token; counts of requests in flight stay exact
  sampled=0.1  of a tenth of the requests, by a first route with a runtime_fraction; enough to train a latency predictor.
               Change it while Envoy runs, in whole per cent: POST /runtime_modify?epp.response_bodies=25 on the admin port.

--request-bodies is one of
  auto         none when no parser reads them; buffered with --failure-mode open; else all
  all          streamed (FULL_DUPLEX_STREAMED), of any length
  buffered     as one message, up to --buffer-limit
  none         decisions are made on the headers alone

Values: DURATION 50ms, 30s, 1m30s; SIZE 100Mi, 25MB or bytes. Exit status: 0; 1 the file cannot be written; 2 bad flags or
configuration.
"""


def _response_bodies(value: str) -> tuple[ResponseBodies, float | None]:
    if value.startswith(_SAMPLED):
        return ResponseBodies.SAMPLED, _fraction(value.removeprefix(_SAMPLED))
    if value in ("auto", "all", "none"):
        return ResponseBodies(value), None
    raise ValueError(f"{value!r} is not one of auto, all, none, sampled=FRACTION")


def _fraction(value: str) -> float:
    try:
        fraction = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number; expected for example sampled=0.1") from None
    if not 0 <= fraction <= 1:
        raise ValueError(f"{value} is not in 0..1; expected for example sampled=0.1")
    if 0 < fraction < 1e-6:
        raise ValueError(f"{value} is too small; the least that Envoy can tell from 0 is 0.000001")
    return fraction


def _address(value: str) -> str:
    host, port = split_address(value)
    if port > 65535:
        raise ValueError(f"{value!r}: port {port} is not in 0..65535")
    return host_port(host, port)


def _ip_address(value: str) -> str:
    address = _address(value)
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address") from None
    return address


_CLUSTERS_AND_LISTENER: Final = (
    *("endpoint", "endpoint-dns", "epp-tls", "epp-ca", "epp-server-name", "listen", "admin", "probes", "upstream"),
    *(
        "epp-keepalive",
        "connect-timeout",
        "max-connections",
        "max-requests",
        "upstream-http2",
        "fresh-upstream-connections",
    ),
    "buffer-limit",
)

GROUPS: Final = (
    Group(
        "Configuration",
        (
            text("config-file", "", "the same as FILE; - for standard input", unit="FILE"),
            items("endpoint", "a model server, as in epp run; may be repeated", str, unit="[NAME=]HOST:PORT[,...]"),
            Flag(
                "endpoint-dns",
                "",
                "instead of --endpoint: a name whose addresses are the model servers, as of a headless Service",
                _address,
                "NAME:PORT",
            ),
            switch("allow-experimental-plugins", False, "as in epp run"),
            switch("enable-latency-predictor", False, "as in epp run"),
        ),
    ),
    Group(
        "Bodies",
        (
            Flag("response-bodies", (ResponseBodies.AUTO, None), "see above", _response_bodies, _RESPONSE_UNIT),
            choice("request-bodies", "auto", "see above", [m.value for m in RequestBodies]),
        ),
    ),
    Group(
        "The EPP",
        (
            Flag("epp", "127.0.0.1:9002", "its ext_proc port; a name is looked up in DNS", _address, "HOST:PORT"),
            switch("epp-tls", True, "TLS to the EPP, which epp run speaks unless told --secure-serving=false"),
            text("epp-ca", "", "CA certificates, as Envoy finds them; without, any certificate will do", unit="FILE"),
            text(
                "epp-server-name",
                "",
                "DNS name for SNI, and to find in the certificate with --epp-ca; without, the name in --epp if it is one",
                unit="NAME",
            ),
            duration("epp-keepalive", 10.0, "how often to look whether its connection lives, and how long; 0: never"),
            number("epp-retries", 0, "how often to ask again, elsewhere if it has several addresses, when it is gone"),
            choice("failure-mode", "close", "without an EPP: requests fail, or go to any endpoint", ("close", "open")),
            duration("message-timeout", 1000.0, "how long to wait for the EPP's answer to a message, at most 1h"),
        ),
    ),
    Group(
        "Traffic",
        (
            Flag("listen", "0.0.0.0:8081", "where clients connect", _ip_address, "IP:PORT"),
            Flag("admin", "127.0.0.1:19000", "Envoy's admin pages", _ip_address, "IP:PORT"),
            Flag("probes", "", "two of them for others: /ready and /stats/prometheus", _ip_address, "IP:PORT"),
            choice(
                "upstream",
                Upstream.ORIGINAL_DST.value,
                "how Envoy reaches a picked endpoint: by its address, or by picking it among --endpoint, which can "
                "go on to another one",
                [u.value for u in Upstream],
            ),
            duration("connect-timeout", 5.0, "for a connection to an endpoint or to the EPP"),
            duration("request-timeout", 86400.0, "from the end of a request to the end of its answer; 0: no limit"),
            number("retries", 0, "further endpoints to try when one cannot be reached; never one that has begun"),
            number("max-connections", 40_000, "circuit breaker of each cluster"),
            number("max-requests", 40_000, "circuit breaker of each cluster: under way, waiting, tried again"),
            switch("upstream-http2", False, "HTTP/2 without TLS to the endpoints, as gRPC needs"),
            switch(
                "fresh-upstream-connections", False, "use each only once; for servers like llama.cpp that close them"
            ),
            size("buffer-limit", 8 << 20, "largest buffered body, and how much is read at once"),
        ),
    ),
    Group(
        "Output",
        (
            switch("filter-only", False, "only the ext_proc filter and the routes, for an Envoy that you have already"),
            choice("output", "yaml", "JSON has no comments", ("yaml", "json")),
            text("out", "", "write to a file instead of standard output", unit="FILE"),
        ),
    ),
)


def envoy_config(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    try:
        parsed = parse_flags(arguments, GROUPS)
        _check(parsed)
        pipeline = _pipeline(parsed)
        modes = _modes(parsed.values, pipeline)
        document = _document(parsed.values, modes)
    except HelpRequested:
        print(help_text(), end="")
        return 0
    except InvalidConfig as error:
        print_problems(error.problems)
        print("epp envoy-config: the configuration cannot be used", file=sys.stderr)
        return 2
    except (UsageError, ConfigError) as error:
        print(f"epp envoy-config: {error}\nepp envoy-config --help lists the flags", file=sys.stderr)
        return 2
    print_problems(resolved_of(pipeline).warnings)
    for warning in (*_without_effect(parsed), *modes.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    if parsed.values["output"] == "json":
        return _write(parsed.values["out"], json.dumps(document, indent=2) + "\n")
    comments = _comments(arguments, parsed, pipeline, modes)
    return _write(parsed.values["out"], comments + yaml.safe_dump(document, sort_keys=False, width=120))


def help_text() -> str:
    """What the modes mean, and all flags by group with defaults and units."""
    return "\n".join([_INTRO.rstrip("\n"), *described(GROUPS, shown={"response-bodies": "auto"})]) + "\n"


# --- what was asked for --------------------------------------------------------------------------------------------------


def _check(parsed: Parsed) -> None:
    """Raises UsageError for values out of range and for flags that contradict each other."""
    values = parsed.values
    if len(parsed.stray) > 1 or (parsed.stray and "config-file" in parsed.given):
        raise UsageError(f"unexpected argument: {parsed.stray[-1]}; expected one configuration file")
    if parsed.stray:
        values["config_file"] = parsed.stray[0]
    _check_ranges(values)
    if not values["epp_tls"]:
        for flag in ("epp-ca", "epp-server-name"):
            if flag in parsed.given:
                raise UsageError(f"--{flag}: there is no certificate with --epp-tls=false")
    if values["filter_only"]:
        return
    if values["probes"] and not split_address(values["admin"])[1]:
        raise UsageError("--probes: its pages are read from the admin port, which has to be known; --admin IP:0 is not")
    override = values["upstream"] == Upstream.OVERRIDE_HOST.value
    if override and not (values["endpoint"] or values["endpoint_dns"]):
        raise UsageError(
            "--upstream override_host: Envoy chooses among endpoints that it is given; name them, --endpoint"
        )
    if values["endpoint"] and values["endpoint_dns"]:
        raise UsageError("--endpoint-dns: the model servers are those of --endpoint already; give one of both")
    if values["failure_mode"] == "open" and not override:
        nowhere = "a request that no EPP has seen has no destination with --upstream original_dst"
        raise UsageError(f"--failure-mode open: {nowhere}; use override_host")


def _check_ranges(values: dict[str, Any]) -> None:
    for name in ("max_connections", "max_requests", "retries", "epp_retries", "buffer_limit_bytes"):
        flag = name.removesuffix("_bytes").replace("_", "-")
        least = 0 if name.endswith("retries") else 1
        if not least <= values[name] <= _MOST_COUNT:
            raise UsageError(f"--{flag}: {values[name]} is not in {least}..{_MOST_COUNT}")
    if not 0 < values["message_timeout_s"] <= _MOST_MESSAGE_TIMEOUT_S:
        raise UsageError(f"--message-timeout: {values['message_timeout_s']:g}s is not above 0 and at most 1h")
    if values["connect_timeout_s"] < 0.001:
        raise UsageError(f"--connect-timeout: {values['connect_timeout_s']:g}s is not above 0")
    if values["epp_keepalive_s"] and values["epp_keepalive_s"] < 0.001:
        raise UsageError(f"--epp-keepalive: {values['epp_keepalive_s']:g}s is neither 0 nor at least 1ms")
    if values["request_timeout_s"] < 0:
        raise UsageError(f"--request-timeout: {values['request_timeout_s']:g}s is negative")


def _without_effect(parsed: Parsed) -> list[str]:
    """Flags about what is not written."""
    if not parsed.values["filter_only"]:
        return []
    given = [f"--{flag}" for flag in _CLUSTERS_AND_LISTENER if flag in parsed.given]
    return [f"{', '.join(given)}: no effect with --filter-only"] if given else []


def _pipeline(parsed: Parsed) -> Pipeline:
    """The configuration, built as `epp run` builds it. Raises InvalidConfig and UsageError."""
    file = parsed.values["config_file"]
    predicting = latency_predictor_enabled(parsed, os.environ)
    if file == "-":
        loaded = load_text(sys.stdin.read(), "<stdin>")
    else:
        loaded = load_file(file) if file else load_default(predicting=predicting)
    environment = Environment(
        fleet=Fleet(),
        clock=monotonic,
        random=random.Random(0),
        log=logging.getLogger("epp.plugins"),
        metrics=Recorder(monotonic, process=False).plugin_metrics,
        allow_experimental=parsed.values["allow_experimental_plugins"],
        always=ALWAYS_PREDICTING if predicting else (),
    )
    return build(loaded, make_registry(), environment)


# --- what comes of it ----------------------------------------------------------------------------------------------------


def _modes(values: dict[str, Any], pipeline: Pipeline) -> Modes:
    readers = Readers(
        request=body_needs(pipeline).request,
        response=parsers_of_responses(pipeline),
        pieces=readers_of_pieces(pipeline),
    )
    response, fraction = values["response_bodies"]
    return choose(
        readers,
        request=RequestBodies(values["request_bodies"]),
        response=response,
        fraction=fraction,
        fail_open=values["failure_mode"] == "open",
    )


def _document(values: dict[str, Any], modes: Modes) -> JsonObject:
    """Raises ConfigError for a malformed endpoint."""
    listen_host, listen_port = split_address(values["listen"])
    admin_host, admin_port = split_address(values["admin"])
    probes_host, probes_port = split_address(values["probes"]) if values["probes"] else (None, 0)
    filter_only = values["filter_only"]
    specs = parse_endpoints(values["endpoint"])
    options = BootstrapOptions(
        listen_host=listen_host,
        listen_port=listen_port,
        admin_host=admin_host,
        admin_port=admin_port,
        probes_host=probes_host,
        probes_port=probes_port,
        epp=values["epp"],
        epp_tls=values["epp_tls"],
        epp_ca=values["epp_ca"] or None,
        epp_server_name=values["epp_server_name"] or _dns_name(values["epp"]),
        # The filter and the routes are the same for either.
        upstream=Upstream.ORIGINAL_DST if filter_only else Upstream(values["upstream"]),
        endpoints=tuple(host_port(spec.address, spec.port) for spec in specs),
        endpoints_dns=values["endpoint_dns"] or None,
        request_body=modes.request,
        response_body=modes.response,
        response_body_fraction=modes.response_fraction,
        failure_mode_allow=values["failure_mode"] == "open",
        message_timeout_s=values["message_timeout_s"],
        connect_timeout_s=values["connect_timeout_s"],
        request_timeout_s=values["request_timeout_s"],
        max_connections=values["max_connections"],
        max_requests=values["max_requests"],
        retries=values["retries"],
        epp_retries=values["epp_retries"],
        epp_keepalive_s=values["epp_keepalive_s"],
        upstream_http2=values["upstream_http2"],
        fresh_upstream_connections=values["fresh_upstream_connections"],
        buffer_limit_bytes=values["buffer_limit_bytes"],
        histograms=True,
    )
    return filter_and_routes(options) if filter_only else bootstrap(options)


def _dns_name(address: str) -> str | None:
    """The host of ``host:port`` unless it is an IP address."""
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _comments(arguments: Sequence[str], parsed: Parsed, pipeline: Pipeline, modes: Modes) -> str:
    """What the file is, which modes were chosen, and why."""
    values = parsed.values
    resolved = resolved_of(pipeline)
    request_why, response_why = modes.why
    what = "The ext_proc filter and the routes of an Envoy" if values["filter_only"] else "An Envoy bootstrap"
    lines = [
        f"{what}, written by epp {version()}: epp envoy-config {shlex.join(arguments)}",
        f"Made for the configuration {resolved.file}, hash {pipeline.config_hash}; make it again when its plugins change.",
        f"request bodies: {modes.request.value}: {request_why}.",
        f"response bodies: {modes.response.value}: {response_why}.",
        *_sampling_hint(modes),
        *(f"warning: {warning}" for warning in modes.warnings),
    ]
    if values["filter_only"]:
        lines.append(
            "http_filters go before envoy.filters.http.router, routes into a virtual host. The clusters epp (HTTP/2) and "
            "model_servers are yours; without --filter-only they are written, too."
        )
    return "".join(f"# {line}\n" for line in _wrapped(lines))


def _sampling_hint(modes: Modes) -> list[str]:
    if modes.response_fraction is None:
        return []
    layer = "needs an admin_layer in Envoy's layered_runtime"
    return [
        f"The fraction can be changed while Envoy runs: POST /runtime_modify?{FRACTION_KEY}=25 (per cent); {layer}."
    ]


def _wrapped(lines: Iterable[str]) -> Iterable[str]:
    # Whatever stands in a name or an argument must not end the comment.
    for line in lines:
        yield from textwrap.wrap(
            " ".join(line.split()), 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )


def _write(path: str, document: str) -> int:
    """To the file, or to standard output. The exit status."""
    if not path:
        print(document, end="")
        return 0
    try:
        Path(path).write_text(document, encoding="utf-8")
    except OSError as error:
        print(f"epp envoy-config: cannot write {path}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
