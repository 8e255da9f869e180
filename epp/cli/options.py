"""Every option of `epp run`: the Go EPP's flags with their names and defaults, and a few of ours.

`parse` reads and checks a command line; nothing here opens a file or a socket. What needs the configuration to be decided
(whether endpoints come from file discovery) is left to the app: see `RunOptions.source`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from epp.api import ConfigError
from epp.cli.flags import (
    NO_EFFECT,
    Flag,
    Group,
    HelpRequested,
    Parsed,
    UsageError,
    choice,
    described,
    duration,
    integer,
    items,
    number,
    parse_flags,
    size,
    switch,
    text,
)
from epp.cli.http2_limits import Setting, limits, parse_limit
from epp.cli.quantity import parse_bool
from epp_plugins.variables import Defaults, parameter_defaults

__all__ = [
    "NO_SOURCE",
    "HelpRequested",
    "MetricSpecs",
    "RunOptions",
    "Source",
    "Transport",
    "UsageError",
    "help_text",
    "parse",
]

# What the app says when neither the command line nor the configuration gives endpoints.
NO_SOURCE: Final = (
    "either pool-name or endpoint-selector must be set, or --endpoint HOST:PORT, "
    "or a file-discovery plugin in the configuration"
)

MIN_REFRESH_S: Final = 0.05
_MOST_MESSAGE_BYTES: Final = 2**31 - 1  # protobuf has no larger messages, and grpcio no larger limits
MAX_TARGET_PORTS: Final = 8  # InferencePool v1: spec.targetPorts has at most 8 items

_WORD: Final = r"[A-Za-z0-9._/-]"
_VALUES: Final = rf"\(\s*{_WORD}*(\s*,\s*{_WORD}*)*\s*\)"
_REQUIREMENT: Final = rf"\s*(!\s*{_WORD}+|{_WORD}+(\s*(=|==|!=|<|>)\s*{_WORD}*|\s+(in|notin)\s*{_VALUES})?)\s*"
_SELECTOR: Final = re.compile(f"{_REQUIREMENT}(,{_REQUIREMENT})*")
"""What can be a label selector at all; which labels and values there may be, the API server knows."""


class Source(enum.Enum):
    """Where the command line says that endpoints come from. File discovery in the configuration goes before all others."""

    STATIC = "endpoint"
    POOL = "pool-name"
    SELECTOR = "endpoint-selector"
    UNSAID = ""


class Transport(enum.Enum):
    """What serves the ext_proc port."""

    LEAN = "lean"
    GRPCIO = "grpcio"


class MetricSpecs(msgspec.Struct, frozen=True):
    """The flags that name a model server's metrics, deprecated by the Go EPP and honoured here. None: not given."""

    waiting_requests: str | None = None
    running_requests: str | None = None
    kv_cache_usage: str | None = None
    lora_info: str | None = None
    cache_info: str | None = None


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A checked command line. `warnings` are for the log: accepted, but not as somebody may think."""

    config_file: str = ""
    config_text: str = ""
    config_reload: bool = True
    allow_experimental_plugins: bool = False
    enable_latency_predictor: bool = False  # env ENABLE_LATENCY_PREDICTOR
    plugin_defaults: Defaults = {}  # env, see epp_plugins.variables
    state_dir: str = ""
    state_save_interval_s: float = 60.0

    endpoints: tuple[str, ...] = ()  # as given: `epp.discovery.static` reads them
    pool_name: str = ""
    pool_namespace: str = "default"
    pool_group: str = "inference.networking.k8s.io"
    endpoint_selector: str = ""
    endpoint_target_ports: tuple[int, ...] = ()
    objects_dir: str = ""
    disable_endpoint_subset_filter: bool = False
    emit_endpoint_scores: bool = False
    kubeconfig: str = ""
    kube_context: str = ""
    ha_enable_leader_election: bool = False
    replicas_serve: str = "leader"
    pod_name: str = ""  # env POD_NAME

    transport: Transport = Transport.LEAN
    grpc_port: int = 9002
    grpc_host: str = "0.0.0.0"
    health_port: int = 9003
    health_host: str = "0.0.0.0"
    metrics_port: int = 9090
    metrics_host: str = "0.0.0.0"
    drain_timeout_s: float = 30.0
    max_request_body_bytes: int = 100 << 20
    compressed_requests: str = "read"
    grpc_max_recv_msg_size_bytes: int | None = None
    grpc_max_send_msg_size_bytes: int | None = None
    grpc_enable_compression: bool = False
    http2_limits: tuple[Setting, ...] = ()
    health_checking: bool = False

    secure_serving: bool = True
    cert_path: str = ""
    enable_cert_reload: bool = False
    tls_min_version: str = ""
    tls_cipher_suites: tuple[str, ...] = ()
    metrics_endpoint_auth: bool | None = None  # None: not said
    metrics_cert_dir: str = ""
    metrics_client_ca_file: str = ""

    metric_specs: MetricSpecs = MetricSpecs()
    model_server_metrics_scheme: str = "http"
    model_server_metrics_path: str = "/metrics"
    model_server_metrics_port: int = 0  # 0: the endpoint's own
    model_server_metrics_insecure_skip_verify: bool = True
    refresh_metrics_interval_s: float = 0.05
    refresh_prometheus_metrics_interval_s: float = 5.0
    metrics_staleness_threshold_s: float = 2.0
    stale_metrics: str = "unknown"
    idle_metrics_interval_s: float = 0.0

    verbosity: int = 2
    log_format: str = "auto"
    tracing: bool | None = None  # None: not said
    enable_pprof: bool = True
    enable_grpc_stream_metrics: bool = False
    fairness_id_metric_label_limit: int = 1000
    explain_decisions: int = 10_000
    explain_header: bool = False
    latency_fields: str = "asked"

    given: frozenset[str] = frozenset()  # names of the flags of the command line
    warnings: tuple[str, ...] = ()

    @property
    def max_message_bytes(self) -> int:
        """The largest gRPC message to receive. In BUFFERED mode a body is one message, with little around it."""
        return self.grpc_max_recv_msg_size_bytes or self.max_request_body_bytes + (1 << 20)

    @property
    def elects_leader(self) -> bool:
        """Whether this replica serves only while it holds the Lease."""
        return self.ha_enable_leader_election and self.replicas_serve == "leader"

    @property
    def source(self) -> Source:
        if self.endpoints:
            return Source.STATIC
        if self.pool_name:
            return Source.POOL
        return Source.SELECTOR if self.endpoint_selector else Source.UNSAID

    @property
    def log_json(self) -> bool | None:
        """None: JSON unless the log goes to a terminal."""
        return {"json": True, "console": False}.get(self.log_format)


def _listed(name: str, summary: str, *, unit: str, field: str = "", note: str = "") -> Flag:
    return items(name, summary, str, unit=unit, field=field, note=note)


def _port(name: str, default: int, summary: str, field: str = "") -> Flag:
    return number(name, default, summary, field=field)


PREDICTOR_SWITCH: Final = switch(
    "enable-latency-predictor",
    False,
    "predict latencies: without a configuration also route by them; env ENABLE_LATENCY_PREDICTOR",
)
_OLD: Final = "deprecated; prefer core-metrics-extractor.engineConfigs in the configuration"

GROUPS: Final = (
    Group(
        "Configuration",
        (
            text("config-file", "", "EndpointPickerConfig file; without one the built-in default is used", unit="FILE"),
            text("config-text", "", "the configuration itself, instead of a file", unit="YAML"),
            switch("config-reload", True, "follow changes of --config-file"),
            switch("allow-experimental-plugins", False, "load plugins that are marked as experimental"),
            PREDICTOR_SWITCH,
            text("state-dir", "", "directory where plugins keep what they learned over a restart", unit="DIR"),
            duration("state-save-interval", 60.0, "time between savings to --state-dir; at the end it is always saved"),
        ),
    ),
    Group(
        "Endpoints: --pool-name, --endpoint-selector, --endpoint, or a file-discovery plugin in the configuration",
        (
            _listed("endpoint", "a model server; may be repeated", unit="[NAME=]HOST:PORT[,...]", field="endpoints"),
            text(
                "pool-name",
                "",
                "the InferencePool whose Pods to serve; with --endpoint or file-discovery only a label of metrics",
            ),
            text("pool-namespace", "", "the pool's namespace; without it the environment's NAMESPACE, else default"),
            text("pool-group", RunOptions().pool_group, "API group of the InferencePool"),
            text(
                "endpoint-selector",
                "",
                "Pods to serve, by labels, instead of a pool: app=vllm,tier in (a,b),!draft",
                unit="SELECTOR",
            ),
            items("endpoint-target-ports", "ports of those Pods, 1 to 8", integer, unit="PORT[,...]"),
            text(
                "kubeconfig",
                "",
                "how to reach the API server; without it KUBECONFIG, the Pod's service account, ~/.kube/config",
                unit="FILE",
            ),
            text("kube-context", "", "the context of that file to use; without it the current one", unit="NAME"),
            text(
                "objects",
                "",
                "directory of InferenceObjective and InferenceModelRewrite files, which is followed",
                unit="DIR",
                field="objects_dir",
            ),
            switch("disable-endpoint-subset-filter", False, "ignore the proxy's subset hint"),
            switch("emit-endpoint-scores", False, "tell the proxy the scores, in dynamic metadata"),
        ),
    ),
    Group(
        "Several replicas",
        (
            switch("ha-enable-leader-election", False, "be ready only while holding the Lease of the pool"),
            choice(
                "replicas-serve",
                "leader",
                "with leader election: only the leader serves; or all do, and no Lease is taken",
                ("leader", "all"),
            ),
        ),
    ),
    Group(
        "Serving",
        (
            choice(
                "transport", "lean", "what serves gRPC: our own HTTP/2 core, or grpcio", [t.value for t in Transport]
            ),
            _port("grpc-port", 9002, "port of ext_proc"),
            _port("grpc-health-port", 9003, "port of gRPC health checks (plain text)", "health_port"),
            _port("metrics-port", 9090, "port of /metrics, /healthz, /readyz and /debug"),
            text("listen", "0.0.0.0", "address to listen on, for all ports", unit="HOST"),
            text("grpc-bind-address", "", "the same, for ext_proc only", unit="HOST", field="grpc_host"),
            text("grpc-health-bind-address", "", "the same, for health checks only", unit="HOST", field="health_host"),
            text("metrics-bind-address", "", "the same, for the metrics port only", unit="HOST", field="metrics_host"),
            duration("drain-timeout", 30.0, "how long to go on serving after SIGTERM"),
            size("max-request-body", 100 << 20, "largest request body; larger ones are answered 413"),
            choice(
                "compressed-requests", "read", "gzip'd request bodies: read them, or refuse (415)", ("read", "refuse")
            ),
            size(
                "grpc-max-recv-msg-size", None, "largest gRPC message to receive; without it the largest body and 1Mi"
            ),
            size("grpc-max-send-msg-size", None, "largest gRPC message that grpcio sends; without it no limit"),
            items(
                "http2-limit",
                "a limit of the lean transport (docs/transport.md lists them); may be repeated",
                parse_limit,
                unit="NAME=VALUE[,...]",
                field="http2_limits",
            ),
            switch("grpc-enable-compression", False, "gzip gRPC replies to clients that accept it"),
            switch("health-checking", False, "answer health checks on the ext_proc port, too", note="they always are"),
        ),
    ),
    Group(
        "TLS",
        (
            switch("secure-serving", True, "TLS on the ext_proc port"),
            text(
                "cert-path", "", "directory with tls.crt and tls.key; without it a self-signed certificate", unit="DIR"
            ),
            switch("enable-cert-reload", False, "follow changes of those files"),
            text("tls-min-version", "", "VersionTLS12 or VersionTLS13", unit="VERSION"),
            _listed("tls-cipher-suites", "suites for TLS 1.2 and older, by their IANA names", unit="NAME[,...]"),
            switch(
                "metrics-endpoint-auth",
                True,
                "ask Kubernetes who may read the pages of the metrics port; unless given, only where Kubernetes is used",
            ),
            text("metrics-cert-dir", "", "TLS on the metrics port: directory with tls.crt and tls.key", unit="DIR"),
            text("metrics-client-ca-file", "", "CA that must have signed certificates of its clients", unit="FILE"),
        ),
    ),
    Group(
        "Metrics of model servers",
        (
            duration("refresh-metrics-interval", 0.05, "time between readings of an endpoint; at least 50ms"),
            duration(
                "metrics-staleness-threshold",
                2.0,
                "older metrics are not used, and do not count in the pool's averages; at least three readings",
            ),
            choice(
                "stale-metrics",
                "unknown",
                "what older metrics are: unknown, which is worse than any load; or keep, used as they were",
                ("unknown", "keep"),
            ),
            duration(
                "idle-metrics-interval",
                0.0,
                "longest time between readings of an endpoint where nothing is under way; 0: as of others",
            ),
            duration(
                "refresh-prometheus-metrics-interval",
                5.0,
                "time between updates of the pool's averages",
                note="no effect: they are worked out whenever they are read",
            ),
            text("total-queued-requests-metric", "", "metric of waiting requests", unit="METRIC", note=_OLD),
            text("total-running-requests-metric", "", "metric of running requests", unit="METRIC", note=_OLD),
            text("kv-cache-usage-percentage-metric", "", "metric of KV cache usage, 0 to 1", unit="METRIC", note=_OLD),
            text("lora-info-metric", "", "metric of loaded adapters", unit="METRIC", note=_OLD),
            text("cache-info-metric", "", "metric of the KV cache's layout", unit="METRIC", note=_OLD),
            choice("model-server-metrics-scheme", "http", "of the metrics page", ("http", "https"), note="deprecated"),
            text("model-server-metrics-path", "/metrics", "of the metrics page", unit="PATH", note="deprecated"),
            number("model-server-metrics-port", 0, "of the metrics page; 0: the endpoint's", note="deprecated"),
            switch(
                "model-server-metrics-https-insecure-skip-verify", True, "accept any certificate", note="deprecated"
            ),
        ),
    ),
    Group(
        "Diagnostics",
        (
            number(
                "v", 2, "verbosity: 2 default, 3 a line per request, 4 debug, 5 trace", short="v", field="verbosity"
            ),
            choice("log-format", "auto", "auto: JSON unless on a terminal", ("auto", "json", "console")),
            choice("zap-encoder", "", "the same as --log-format", ("json", "console")),
            text("zap-log-level", "", "error, info, debug or a verbosity; -v goes before it", unit="LEVEL"),
            switch("zap-devel", False, "of the Go EPP's logger", note=NO_EFFECT),
            text("zap-stacktrace-level", "", "of the Go EPP's logger", unit="LEVEL", note=NO_EFFECT),
            text("zap-time-encoding", "", "of the Go EPP's logger", unit="NAME", note=NO_EFFECT),
            switch(
                "tracing",
                True,
                "OpenTelemetry traces (extra otel); unless given, only where the environment's OTEL_* say where to",
            ),
            switch("enable-pprof", True, "profiles on the metrics port", note=NO_EFFECT),
            switch("enable-grpc-stream-metrics", False, "metrics of ext_proc streams"),
            number("fairness-id-metric-label-limit", 1000, "fairness ids that metrics tell apart"),
            choice(
                "latency-fields",
                "asked",
                "add latencies to the usage in responses: of requests with x-llm-epp-latency: 1, always, or never",
                ("asked", "always", "never"),
            ),
            number("explain-decisions", 10_000, "decisions to keep for `epp explain`; 0: none"),
            switch(
                "explain-header", False, "trust callers: x-llm-epp-explain: 1 asks for an explanation in the response"
            ),
        ),
    ),
)


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> RunOptions:
    """The options that `argv` (without the program's name) asks for.

    `environ` gives NAMESPACE, POD_NAME and what epp_plugins.variables lists. Raises UsageError, and HelpRequested for `--help`.
    """
    parsed = parse_flags(argv, GROUPS)
    environ = environ or {}
    values = parsed.values
    listen = values.pop("listen")
    warnings: list[str] = []
    options = {
        **{name: value for name, value in values.items() if name in RunOptions.__struct_fields__},
        "grpc_host": values["grpc_host"] or listen,
        "health_host": values["health_host"] or listen,
        "metrics_host": values["metrics_host"] or listen,
        "endpoints": tuple(values["endpoints"]),
        "endpoint_target_ports": tuple(dict.fromkeys(values["endpoint_target_ports"])),
        "pool_namespace": values["pool_namespace"] or environ.get("NAMESPACE") or "default",
        "pod_name": environ.get("POD_NAME", ""),
        "enable_latency_predictor": latency_predictor_enabled(parsed, environ),
        "plugin_defaults": plugin_defaults(environ),
        "transport": Transport(values["transport"]),
        "http2_limits": tuple(values["http2_limits"]),
        "metric_specs": _metric_specs(parsed),
        "model_server_metrics_insecure_skip_verify": values["model_server_metrics_https_insecure_skip_verify"],
        "metrics_endpoint_auth": values["metrics_endpoint_auth"] if "metrics-endpoint-auth" in parsed.given else None,
        "tracing": values["tracing"] if "tracing" in parsed.given else None,
        "verbosity": _verbosity(parsed),
        "log_format": values["log_format"] if "log-format" in parsed.given else values["zap_encoder"] or "auto",
    }
    if values["refresh_metrics_interval_s"] < MIN_REFRESH_S:
        warnings.append("--refresh-metrics-interval: 50ms is the least; using it")
        options["refresh_metrics_interval_s"] = MIN_REFRESH_S
    if options["http2_limits"] and options["transport"] is Transport.GRPCIO:
        warnings.append("--http2-limit: no effect with --transport=grpcio")
    if "grpc-max-send-msg-size" in parsed.given and options["transport"] is Transport.LEAN:
        warnings.append("--grpc-max-send-msg-size: no effect with --transport=lean")
    if "endpoint-target-ports" in parsed.given and not options["endpoint_selector"]:
        warnings.append("--endpoint-target-ports: no effect without --endpoint-selector")
    if "replicas-serve" in parsed.given and not options["ha_enable_leader_election"]:
        warnings.append("--replicas-serve: no effect without --ha-enable-leader-election: every replica serves")
    warnings += _stray(parsed)
    warnings += [f"--{f.name}: {f.note}" for f in _noted() if f.name in parsed.given and f.note != "deprecated"]
    checked = RunOptions(**options, given=frozenset(parsed.given), warnings=tuple(warnings))
    _check(checked)
    return checked


def latency_predictor_enabled(parsed: Parsed, environ: Mapping[str, str]) -> bool:
    """By the flag, else by `latency_predictor_in`. Raises UsageError."""
    if PREDICTOR_SWITCH.name in parsed.given:
        return bool(parsed.values[PREDICTOR_SWITCH.target])
    return latency_predictor_in(environ)


def latency_predictor_in(environ: Mapping[str, str]) -> bool:
    """What ENABLE_LATENCY_PREDICTOR says; False without it. Raises UsageError."""
    try:
        return parse_bool(environ.get("ENABLE_LATENCY_PREDICTOR") or "false")
    except ValueError as error:
        raise UsageError(f"environment variable ENABLE_LATENCY_PREDICTOR: {error}") from None


def plugin_defaults(environ: Mapping[str, str]) -> Defaults:
    """What the environment sets of plugins' parameters. Raises UsageError."""
    try:
        return parameter_defaults(environ)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def help_text() -> str:
    """All flags by group, with defaults and units."""
    lines = ["Usage: epp run [flags]", "", "Values: DURATION 50ms, 30s, 1m30s; SIZE 100Mi, 25MB or bytes."]
    return "\n".join([*lines, *described(GROUPS)]) + "\n"


def _noted() -> list[Flag]:
    return [flag for group in GROUPS for flag in group.flags if flag.note]


def _stray(parsed: Parsed) -> list[str]:
    """Arguments that are no flags. Go ignores them; a chart makes them out of boolean flags in its `flags` map."""
    return [
        f"argument {argument!r} is ignored"
        + ("; a boolean flag takes its value after '=': --flag=false" if argument in ("true", "false") else "")
        for argument in parsed.stray
    ]


def _metric_specs(parsed: Parsed) -> MetricSpecs:
    def given(flag: str) -> str | None:
        return parsed.values[flag.replace("-", "_")] if flag in parsed.given else None

    return MetricSpecs(
        waiting_requests=given("total-queued-requests-metric"),
        running_requests=given("total-running-requests-metric"),
        kv_cache_usage=given("kv-cache-usage-percentage-metric"),
        lora_info=given("lora-info-metric"),
        cache_info=given("cache-info-metric"),
    )


def _verbosity(parsed: Parsed) -> int:
    level: str = parsed.values["zap_log_level"]
    if "v" in parsed.given or not level:
        return int(parsed.values["verbosity"])
    named = {"panic": -1, "error": -1, "info": 2, "debug": 4}.get(level)
    if named is not None:
        return named
    if not level.isascii() or not level.isdigit():
        raise UsageError(f"--zap-log-level: {level!r} is not error, info, debug or a number")
    return int(level)


def _check(options: RunOptions) -> None:
    """What single flags cannot show. Texts follow the Go EPP's where it has one."""
    if options.endpoint_selector and (options.pool_name or options.endpoints):
        raise UsageError("either pool-name or endpoint-selector must be set, not both, and neither with --endpoint")
    if options.endpoint_selector:
        if not _SELECTOR.fullmatch(options.endpoint_selector):
            raise UsageError(
                f"--endpoint-selector: {options.endpoint_selector!r} is not a label selector;"
                " expected requirements such as app=vllm,tier in (a,b),!draft"
            )
        ports = options.endpoint_target_ports
        if not 1 <= len(ports) <= MAX_TARGET_PORTS:
            raise UsageError(f'flag "endpoint-target-ports" should have length from 1 to {MAX_TARGET_PORTS}')
        for port in ports:
            if not 1 <= port <= 65535:
                raise UsageError(f'invalid port number {port} in "endpoint-target-ports"')
    if options.config_file and options.config_text:
        raise UsageError('both the "config-file" and "config-text" flags cannot be set at the same time')
    if options.metrics_client_ca_file and not options.metrics_cert_dir:
        raise UsageError('"metrics-client-ca-file" requires "metrics-cert-dir"')
    if options.metrics_cert_dir and not options.metrics_client_ca_file and options.metrics_endpoint_auth is False:
        raise UsageError(
            '"metrics-cert-dir" enables metrics TLS without authentication; '
            'set "metrics-client-ca-file" or "metrics-endpoint-auth"'
        )
    if options.enable_cert_reload and not options.cert_path:
        raise UsageError("--enable-cert-reload: there are no files to follow; give --cert-path")
    _check_ranges(options)


def _check_ranges(options: RunOptions) -> None:
    ports = {
        "grpc-port": options.grpc_port,
        "grpc-health-port": options.health_port,
        "metrics-port": options.metrics_port,
        "model-server-metrics-port": options.model_server_metrics_port,
    }
    for flag, port in ports.items():
        if not 0 <= port <= 65535:
            raise UsageError(f"--{flag}: {port} is not in 0..65535")
    times: dict[str, Any] = {
        "drain-timeout": options.drain_timeout_s,
        "metrics-staleness-threshold": options.metrics_staleness_threshold_s,
        "idle-metrics-interval": options.idle_metrics_interval_s,
    }
    for flag, seconds in times.items():
        if seconds < 0:
            raise UsageError(f"--{flag}: {seconds:g}s is negative")
    if options.state_save_interval_s <= 0:
        raise UsageError(f"--state-save-interval: {options.state_save_interval_s:g}s is not above zero")
    if options.fairness_id_metric_label_limit < 0:
        raise UsageError(f"--fairness-id-metric-label-limit: {options.fairness_id_metric_label_limit} is negative")
    if options.explain_decisions < 0:
        raise UsageError(f"--explain-decisions: {options.explain_decisions} is negative")
    receiving = "grpc-max-recv-msg-size" if options.grpc_max_recv_msg_size_bytes else "max-request-body"
    for flag, size_bytes in (
        (receiving, options.max_message_bytes),
        ("grpc-max-send-msg-size", options.grpc_max_send_msg_size_bytes or 0),
    ):
        if size_bytes > _MOST_MESSAGE_BYTES:
            raise UsageError(f"--{flag}: a gRPC message of {size_bytes} bytes cannot be; at most 2 GiB")
    try:
        limits(options.http2_limits, max_message_bytes=options.max_message_bytes)
    except ValueError as error:
        raise UsageError(f"--http2-limit: {error}") from None
    if not options.max_request_body_bytes:
        raise UsageError("--max-request-body: 0 would refuse every request")
