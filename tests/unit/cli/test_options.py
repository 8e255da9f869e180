from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from epp.cli.flags import NO_EFFECT
from epp.cli.options import GROUPS, HelpRequested, RunOptions, Source, UsageError, help_text, parse


def options(line: str, **environ: str) -> RunOptions:
    return parse(shlex.split(line), environ)


# Command lines as the upstream charts, manifests and guides render them.
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            (
                "--pool-name vllm --pool-namespace ns --pool-group inference.networking.k8s.io --zap-encoder json "
                "--config-file /config/default-plugins.yaml --v 1 --tracing=false"
            ),
            {
                "pool_name": "vllm",
                "pool_namespace": "ns",
                "config_file": "/config/default-plugins.yaml",
                "log_json": True,
                "verbosity": 1,
                "tracing": False,
            },
        ),
        (
            (
                "--total-queued-requests-metric='\"sglang:num_queue_reqs\"' "
                "--kv-cache-usage-percentage-metric sglang:token_usage --lora-info-metric= --metrics-endpoint-auth=false"
            ),
            {"metrics_endpoint_auth": False, "source": Source.UNSAID},
        ),
        (
            "--endpoint-selector app=vllm,tier=x --endpoint-target-ports 3000,3001 --endpoint-target-ports=3000",
            {"endpoint_selector": "app=vllm,tier=x", "endpoint_target_ports": (3000, 3001), "source": Source.SELECTOR},
        ),
        ("--grpc-port=9102 --grpc-health-port 9103 -v=4", {"grpc_port": 9102, "health_port": 9103, "verbosity": 4}),
        ("-v 5", {"verbosity": 5}),
        ("-v5", {"verbosity": 5}),
        ("--v=3 --v 4", {"verbosity": 4}),
        ("--zap-log-level=5", {"verbosity": 5}),
        ("--zap-log-level=error", {"verbosity": -1}),
        ("--zap-log-level=debug -v 2", {"verbosity": 2}),
        ("--secure-serving=false --health-checking", {"secure_serving": False, "health_checking": True}),
        ("--health-checking --grpc-port 1", {"health_checking": True, "grpc_port": 1}),
        ('--enable-pprof="0"', {"enable_pprof": False}),
        ("--drain-timeout 1m30s --metrics-staleness-threshold=500ms", {"drain_timeout_s": 90.0}),
        ("--grpc-max-recv-msg-size 25MB", {"grpc_max_recv_msg_size_bytes": 25_000_000}),
        ("--max-request-body=10MiB", {"max_request_body_bytes": 10 << 20}),
        ("--refresh-metrics-interval 10ms", {"refresh_metrics_interval_s": 0.05}),
        (
            "--idle-metrics-interval 150ms --stale-metrics=keep",
            {"idle_metrics_interval_s": 0.15, "stale_metrics": "keep"},
        ),
        ("", {"idle_metrics_interval_s": 0.0, "stale_metrics": "unknown"}),
        ("--listen :: --metrics-bind-address 127.0.0.1", {"grpc_host": "::", "metrics_host": "127.0.0.1"}),
        ("--tls-cipher-suites=A,B --tls-min-version VersionTLS13", {"tls_cipher_suites": ("A", "B")}),
        ("--log-format console --zap-encoder=json", {"log_json": False}),
        ("--config-text 'a: b=c'", {"config_text": "a: b=c"}),
        ("", {"grpc_port": 9002, "drain_timeout_s": 30.0, "pool_namespace": "default", "log_json": None}),
    ],
)
def test_command_lines_of_the_go_epp(line: str, expected: dict[str, object]) -> None:
    parsed = options(line)

    assert {name: getattr(parsed, name) for name in expected} == expected


def test_an_empty_command_line_gives_the_defaults_of_the_options() -> None:
    assert options("") == RunOptions()


def test_deprecated_metric_flags_are_honoured_without_their_stray_quotes() -> None:
    specs = options(
        "--total-queued-requests-metric='\"nv_trt_llm_request_metrics{request_type=waiting}\"' --lora-info-metric="
    ).metric_specs

    assert specs.waiting_requests == "nv_trt_llm_request_metrics{request_type=waiting}"
    assert (specs.lora_info, specs.cache_info) == ("", None)


def test_model_server_metrics_flags_are_honoured() -> None:
    parsed = options(
        "--model-server-metrics-scheme=https --model-server-metrics-path /m --model-server-metrics-port=9400 "
        "--model-server-metrics-https-insecure-skip-verify=false"
    )

    assert parsed.model_server_metrics_scheme == "https"
    assert (parsed.model_server_metrics_path, parsed.model_server_metrics_port) == ("/m", 9400)
    assert parsed.model_server_metrics_insecure_skip_verify is False


def test_the_environment_gives_the_namespace_unless_a_flag_does() -> None:
    assert options("", NAMESPACE="env", POD_NAME="epp-1").pool_namespace == "env"
    assert options("--pool-namespace flag", NAMESPACE="env").pool_namespace == "flag"
    assert options("", POD_NAME="epp-1").pod_name == "epp-1"


def test_endpoints_may_be_listed_and_repeated() -> None:
    parsed = options("--endpoint a=10.0.0.1:8000,10.0.0.2:80 --endpoint [::1]:8001 --pool-name label")

    assert parsed.endpoints == ("a=10.0.0.1:8000", "10.0.0.2:80", "[::1]:8001")
    assert parsed.source is Source.STATIC


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--grpc-prot 1", "unknown flag: --grpc-prot; did you mean --grpc-port?"),
        ("-grpc-port 1", "unknown flag: -grpc-port; did you mean --grpc-port?"),
        ("--wholly-unlike-anything=3", "unknown flag: --wholly-unlike-anything; --help lists all flags"),
        ("--grpc-port", "flag needs a value: --grpc-port N"),
        ("--grpc-port x", "--grpc-port: 'x' is not a number"),
        ("--grpc-port 70000", "--grpc-port: 70000 is not in 0..65535"),
        ("--secure-serving=maybe", "--secure-serving: 'maybe' is not a truth value"),
        ("--drain-timeout 30", "--drain-timeout: '30' is not a duration"),
        ("--drain-timeout=-1s", "--drain-timeout: -1s is negative"),
        ("--max-request-body 1XB", "--max-request-body: '1XB' is not a size"),
        ("--transport h3", "--transport: 'h3' is not one of lean, grpcio"),
        ("--model-server-metrics-scheme=ftp", "'ftp' is not one of http, https"),
        ("--endpoint-selector a=b", 'flag "endpoint-target-ports" should have length from 1 to 8'),
        ("--endpoint-selector a=b --endpoint-target-ports 1,2,3,4,5,6,7,8,9", "should have length from 1 to 8"),
        (
            "--endpoint-selector a=b --endpoint-target-ports 99999",
            'invalid port number 99999 in "endpoint-target-ports"',
        ),
        ("--endpoint-target-ports x", "--endpoint-target-ports: 'x' is not a number"),
        ("--pool-name p --endpoint-selector a=b --endpoint-target-ports 1", "either pool-name or endpoint-selector"),
        ("--endpoint h:1 --endpoint-selector a=b --endpoint-target-ports 1", "neither with --endpoint"),
        ("--config-file a --config-text b", 'both the "config-file" and "config-text" flags'),
        ("--metrics-client-ca-file ca", '"metrics-client-ca-file" requires "metrics-cert-dir"'),
        ("--metrics-cert-dir d --metrics-endpoint-auth=false", "enables metrics TLS without authentication"),
        ("--enable-cert-reload", "give --cert-path"),
        ("--zap-log-level loud", "--zap-log-level: 'loud'"),
        ("--fairness-id-metric-label-limit=-1", "negative"),
    ],
)
def test_a_wrong_command_line_is_told_what_to_write(line: str, problem: str) -> None:
    with pytest.raises(UsageError) as told:
        options(line)

    assert problem in str(told.value)


@pytest.mark.parametrize(
    "selector",
    [
        *("app=vllm", "app == vllm , tier!=x", "app in (a,b), tier notin(c)", "!draft,gpu", "llm-d.ai/role=decode"),
        *("app=", "app in (a,)", "cards>3", " app=x "),
    ],
)
def test_what_the_api_server_takes_for_a_selector_is_one(selector: str) -> None:
    parsed = parse(["--endpoint-selector", selector, "--endpoint-target-ports", "1"], {})

    assert parsed.endpoint_selector == selector


@pytest.mark.parametrize("selector", ["app in (", "=x", "app=x y", "app=x,", ",", "app in a", "!", "a=b=c", "app in"])
def test_what_the_api_server_does_not_take_for_a_selector_is_refused_at_the_start(selector: str) -> None:
    with pytest.raises(UsageError, match=r"^--endpoint-selector: .* is not a label selector; expected"):
        parse(["--endpoint-selector", selector, "--endpoint-target-ports", "1"], {})


def test_a_boolean_flag_does_not_eat_the_next_argument_and_says_so() -> None:
    # The upstream charts render a flags map as two arguments; the Go EPP starts, with the flag at true.
    parsed = options("--enable-grpc-stream-metrics false --grpc-port 1")

    assert (parsed.enable_grpc_stream_metrics, parsed.grpc_port) == (True, 1)
    assert "argument 'false' is ignored; a boolean flag takes its value after '=': --flag=false" in parsed.warnings


def test_arguments_after_two_dashes_are_no_flags() -> None:
    assert options("--grpc-port 1 -- --nonsense").warnings == ("argument '--nonsense' is ignored",)


def test_flags_without_effect_are_accepted_and_reported() -> None:
    assert options("--zap-devel").warnings == ("--zap-devel: accepted, no effect",)
    assert options("--grpc-port 1").warnings == ()


def test_the_documentation_says_why_flags_have_no_effect() -> None:
    said = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text()

    without = [flag.name for group in GROUPS for flag in group.flags if flag.note == NO_EFFECT]

    assert [name for name in without if f"`--{name}`" not in said] == []


def test_tracing_is_left_open_unless_it_is_said() -> None:
    assert [options(line).tracing for line in ("", "--tracing", "--tracing=false")] == [None, True, False]


def test_which_replicas_serve_is_a_matter_of_leader_election() -> None:
    assert options("--ha-enable-leader-election").elects_leader
    assert not options("--ha-enable-leader-election --replicas-serve=all").elects_leader
    assert options("--replicas-serve=leader").warnings == (
        "--replicas-serve: no effect without --ha-enable-leader-election: every replica serves",
    )


def test_whether_pages_are_guarded_is_left_open_unless_it_is_said() -> None:
    assert options("").metrics_endpoint_auth is None
    assert options("--metrics-endpoint-auth").metrics_endpoint_auth is True
    assert options("--metrics-endpoint-auth=false").metrics_endpoint_auth is False


@pytest.mark.parametrize("line", ["--help", "-h", "--grpc-port 1 --help"])
def test_help_is_asked_for(line: str) -> None:
    with pytest.raises(HelpRequested):
        options(line)


def test_the_help_names_flags_defaults_and_what_has_no_effect() -> None:
    text = help_text()

    assert "  --drain-timeout DURATION\n        how long to go on serving after SIGTERM (default 30s)" in text
    assert "(default 100Mi)" in text
    assert "-v, --v N" in text
    assert "[accepted, no effect]" in text


# protocol.md 4.1 and plugins.md 1.5: the flags of both generations of the Go EPP.
GO_FLAGS = [
    "grpc-port",
    "grpc-health-port",
    "metrics-port",
    "pool-name",
    "pool-namespace",
    "pool-group",
    "endpoint-selector",
    "endpoint-target-ports",
    "disable-endpoint-subset-filter",
    "emit-endpoint-scores",
    "ha-enable-leader-election",
    "drain-timeout",
    "grpc-max-recv-msg-size",
    "grpc-max-send-msg-size",
    "model-server-metrics-scheme",
    "model-server-metrics-path",
    "model-server-metrics-port",
    "model-server-metrics-https-insecure-skip-verify",
    "refresh-metrics-interval",
    "refresh-prometheus-metrics-interval",
    "metrics-staleness-threshold",
    "total-queued-requests-metric",
    "total-running-requests-metric",
    "kv-cache-usage-percentage-metric",
    "lora-info-metric",
    "cache-info-metric",
    "v",
    "zap-encoder",
    "zap-log-level",
    "zap-devel",
    "zap-stacktrace-level",
    "zap-time-encoding",
    "tracing",
    "health-checking",
    "enable-pprof",
    "secure-serving",
    "cert-path",
    "enable-cert-reload",
    "tls-min-version",
    "tls-cipher-suites",
    "metrics-endpoint-auth",
    "metrics-cert-dir",
    "metrics-client-ca-file",
    "enable-grpc-stream-metrics",
    "config-file",
    "config-text",
    "allow-experimental-plugins",
]


def test_every_flag_of_the_go_epp_is_there() -> None:
    text = help_text()

    assert [f for f in GO_FLAGS if f"--{f} " not in text and f"--{f}\n" not in text and f"--{f}[" not in text] == []


def test_limits_of_the_transport_are_read_by_the_unit_in_their_name() -> None:
    parsed = options("--http2-limit max-output-bytes=2Mi,idle-timeout=10m --http2-limit max_concurrent_streams=7")

    assert parsed.http2_limits == (
        ("max_output_bytes", 2 << 20),
        ("idle_timeout_s", 600.0),
        ("max_concurrent_streams", 7),
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("max-stream=7", "'max-stream' is no limit; did you mean 'max-output"),
        ("max-concurrent-streams", "has no value"),
        ("max-concurrent-streams=-1", "max-concurrent-streams: '-1' is no whole number"),
        ("idle-timeout-s=soon", "soon"),
        ("max-frame-bytes=1", "max_frame_bytes: 1 is outside 16384..16777215"),
        ("stream-window-bytes=4Gi", "stream_window_bytes"),
    ],
)
def test_a_limit_that_cannot_be_is_told(given: str, problem: str) -> None:
    with pytest.raises(UsageError, match="http2-limit") as error:
        options(f"--http2-limit {given}")

    assert problem.partition("; did")[0] in str(error.value)


def test_a_buffered_body_of_the_largest_size_fits_a_message() -> None:
    assert options("--max-request-body 300Mi").max_message_bytes > 300 << 20


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("--max-request-body 2047Mi", "max-request-body"),
        ("--grpc-max-recv-msg-size 2Gi", "grpc-max-recv-msg-size"),
        ("--grpc-max-send-msg-size 2Gi", "grpc-max-send-msg-size"),
    ],
)
def test_a_message_larger_than_any_can_be_is_refused_by_its_flag(line: str, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^--{flag}: .*at most 2 GiB"):
        options(line)


def test_ports_of_pods_that_nobody_selects_are_warned_of() -> None:
    warning = "--endpoint-target-ports: no effect without --endpoint-selector"

    assert options("--pool-name p --endpoint-target-ports 8000").warnings == (warning,)


def test_limits_of_the_other_transport_are_warned_of() -> None:
    assert options("--transport grpcio --http2-limit max-output-bytes=2Mi").warnings == (
        "--http2-limit: no effect with --transport=grpcio",
    )
    assert options("--grpc-max-send-msg-size 4Mi").warnings == (
        "--grpc-max-send-msg-size: no effect with --transport=lean",
    )


@pytest.mark.parametrize(
    ("line", "environ", "enabled"),
    [
        ("", {}, False),
        ("--enable-latency-predictor", {}, True),
        ("", {"ENABLE_LATENCY_PREDICTOR": "true"}, True),
        ("", {"ENABLE_LATENCY_PREDICTOR": ""}, False),
        ("--enable-latency-predictor=false", {"ENABLE_LATENCY_PREDICTOR": "1"}, False),
    ],
)
def test_latency_prediction_is_enabled_by_flag_or_environment(
    line: str, environ: dict[str, str], enabled: bool
) -> None:
    assert options(line, **environ).enable_latency_predictor is enabled


@pytest.mark.parametrize(("name", "text"), [("ENABLE_LATENCY_PREDICTOR", "perhaps"), ("HEADROOM_TTFT_WEIGHT", "much")])
def test_a_variable_that_cannot_be_used_is_named(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"environment variable {name}: .*'{text}'"):
        options("", **{name: text})


def test_variables_of_plugins_are_defaults_of_their_parameters() -> None:
    assert options("", POD_SELECTION_MODE="max").plugin_defaults == {
        "predicted-latency-scorer": {"selectionMode": "max"}
    }
