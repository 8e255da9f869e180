"""Every metric with its name, labels, buckets and help text.

Names, labels, buckets and texts of `inference_*` are those of the Gateway API Inference Extension 1.5, of `llm_d_epp_*`
those of llm-d-router 0.10; `llm_epp_*` are ours. Where both of the former exist, they are two views of one family.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from epp.observability.series import (
    Counter,
    Family,
    Histogram,
    Names,
    View,
    counter_family,
    gauge_family,
    histogram_family,
)

Bounds = tuple[float, ...]

_MODEL: Final = ("model_name", "target_model_name")
_REQUEST: Final = (*_MODEL, "fairness_id", "priority")

_LATENCY: Final[Bounds] = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
    *(120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
_TPOT: Final[Bounds] = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1, 1.5, 2, 3, 4.5, 6, 12, 18, 24, 30, 36, 48, 60, 90, 120, 180, 270, 360),
)
_LLM_D_TPOT: Final[Bounds] = tuple(b for b in _TPOT if b <= 2 and b != 1.5)
_NTPOT: Final[Bounds] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SUB_MS: Final[Bounds] = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_ITL: Final[Bounds] = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2)
_REQUEST_HANDLING: Final[Bounds] = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_RESPONSE_HANDLING: Final[Bounds] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_STREAM: Final[Bounds] = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
_REQUEST_SIZE: Final[Bounds] = tuple(float(64 << k) for k in range(25))
_OUTPUT: Final[Bounds] = (1, *(float(8 << k) for k in range(11)))
# 32778 is what the Go EPP has under the older names, instead of 32768; dashboards query it.
_GIE_RESPONSE_SIZE: Final[Bounds] = (*_OUTPUT, 16384, 32778, 65536)
_LLM_D_RESPONSE_SIZE: Final[Bounds] = (*_OUTPUT, 16384, 32768, 65536)
_GIE_INPUT: Final[Bounds] = (*_GIE_RESPONSE_SIZE, 131072, 262144, 524288, 1048576)
_LLM_D_INPUT: Final[Bounds] = (*_LLM_D_RESPONSE_SIZE, 131072, 262144, 524288, 1048576)


def _gie(name: str, text: str, labels: tuple[str, ...] = _MODEL, *, bounds: Bounds = (), needs: str = "") -> View:
    return View(f"inference_{name}", f"[ALPHA] {text}", labels, bounds, needs)


def _llm_d(name: str, text: str, labels: tuple[str, ...] = _REQUEST, *, bounds: Bounds = ()) -> View:
    return View(f"llm_d_epp_{name}", f"[ALPHA] {text}", labels, bounds)


class Catalogue:
    """The families that the recorder writes."""

    def __init__(self, *, models: Names, fairness_ids: Names, stream_metrics: bool) -> None:
        folds = {"model_name": models, "target_model_name": models, "fairness_id": fairness_ids}
        self._stream_metrics = stream_metrics

        def histogram(labels: tuple[str, ...], *views: View) -> Family[Histogram]:
            return histogram_family(labels, *views, bounds=(b for v in views for b in v.bounds), folds=folds)

        def counter(labels: tuple[str, ...], *views: View) -> Family[Counter]:
            return counter_family(labels, *views, folds=folds)

        self.request_total = counter(
            _REQUEST,
            _gie(
                "objective_request_total",
                "Counter of inference objective requests broken out for each model and target model.",
                (*_MODEL, "priority"),
            ),
            _llm_d("request_total", "Total number of processed requests."),
        )
        self.request_error_total = counter(
            (*_REQUEST, "error_code"),
            _gie(
                "objective_request_error_total",
                "Counter of inference objective requests errors broken out for each model and target model.",
                (*_MODEL, "error_code"),
            ),
            _llm_d("request_error_total", "Total number of request errors.", (*_REQUEST, "error_code")),
        )
        self.running = gauge_family(
            _REQUEST,
            _gie(
                "objective_running_requests",
                "Inference objective number of running requests in each model.",
                ("model_name",),
                needs="model_name",
            ),
            _llm_d("request_running", "Current number of active running requests."),
            folds=folds,
        )
        self.duration_s = histogram(
            _REQUEST,
            _gie(
                "objective_request_duration_seconds",
                "Inference objective response latency distribution in seconds for each model and target model.",
                bounds=_LATENCY,
            ),
            _llm_d("request_duration_seconds", "End-to-end request latency distribution in seconds.", bounds=_LATENCY),
        )
        self.ttft_s = histogram(
            (*_REQUEST, "streaming"),
            _gie(
                "objective_request_ttft_seconds",
                "Inference model TTFT distribution in seconds for each model and target model.",
                bounds=_LATENCY,
            ),
            _llm_d(
                "request_ttft_seconds",
                "Time to first token in seconds, measured from request received to first response byte. "
                "For non-streaming requests, this equals total request duration.",
                (*_REQUEST, "streaming"),
                bounds=tuple(b for b in _LATENCY if b <= 120),
            ),
        )
        self.tpot_s = histogram(
            _REQUEST,
            _gie(
                "objective_request_tpot_seconds",
                "Inference model TPOT distribution in seconds for each model and target model.",
                bounds=_TPOT,
            ),
            _llm_d(
                "request_streaming_tpot_seconds",
                "Average time per output token in seconds for streaming requests, "
                "computed as (e2e - TTFT) / (output_tokens - 1).",
                bounds=_LLM_D_TPOT,
            ),
        )
        self.itl_s = histogram(
            _REQUEST,
            _llm_d(
                "request_streaming_itl_seconds",
                "Inter-token latency in seconds for streaming requests, "
                "measured as the time between consecutive response body chunks.",
                bounds=_ITL,
            ),
        )
        self.ntpot_s = histogram(
            _REQUEST,
            _gie(
                "objective_normalized_time_per_output_token_seconds",
                "Inference objective latency divided by number of output tokens in seconds for each model and target model.",
                bounds=_NTPOT,
            ),
            _llm_d(
                "request_ntpot_seconds",
                "Normalized time per output token in seconds (end-to-end latency divided by output token count).",
                bounds=_NTPOT,
            ),
        )
        self.request_size_bytes = histogram(
            _REQUEST,
            _gie(
                "objective_request_sizes",
                "Inference objective requests size distribution in bytes for each model and target model.",
                bounds=_REQUEST_SIZE,
            ),
            _llm_d("request_size_bytes", "Incoming request body size distribution in bytes.", bounds=_REQUEST_SIZE),
        )
        self.response_size_bytes = histogram(
            _REQUEST,
            _gie(
                "objective_response_sizes",
                "Inference objective responses size distribution in bytes for each model and target model.",
                bounds=_GIE_RESPONSE_SIZE,
            ),
            _llm_d(
                "response_size_bytes", "Outgoing response body size distribution in bytes.", bounds=_LLM_D_RESPONSE_SIZE
            ),
        )
        self.input_tokens = histogram(
            _REQUEST,
            _gie(
                "objective_input_tokens",
                "Inference objective input token count distribution for requests in each model.",
                bounds=_GIE_INPUT,
            ),
            _llm_d("request_input_tokens", "Input token count distribution per request.", bounds=_LLM_D_INPUT),
        )
        self.output_tokens = histogram(
            _REQUEST,
            _gie(
                "objective_output_tokens",
                "Inference objective output token count distribution for requests in each model.",
                bounds=_OUTPUT,
            ),
            _llm_d("request_output_tokens", "Output token count distribution per request.", bounds=_OUTPUT),
        )
        self.cached_tokens = histogram(
            _REQUEST,
            _gie(
                "objective_prompt_cached_tokens",
                "Inference objective prompt cached token count distribution for requests in each model.",
                bounds=_GIE_INPUT,
            ),
            _llm_d(
                "request_cached_tokens",
                "Distribution of prompt tokens read from cache per request, as reported by the model server in the response.",
                bounds=_LLM_D_INPUT,
            ),
        )
        scheduling = "End-to-end scheduling latency distribution in seconds."
        self.scheduler_duration_s = histogram(
            (),
            _gie("extension_scheduler_e2e_duration_seconds", scheduling, (), bounds=_SUB_MS),
            _llm_d("scheduler_e2e_duration_seconds", scheduling, (), bounds=_SUB_MS),
        )
        self.request_handling_s = histogram(
            (),
            _llm_d(
                "request_processing_duration_seconds",
                "EPP request processing latency distribution in seconds, from request receipt until the request body has been "
                "handled, including admission control.",
                (),
                bounds=_REQUEST_HANDLING,
            ),
        )
        self.response_handling_s = histogram(
            (),
            _llm_d(
                "response_processing_duration_seconds",
                "EPP response processing latency distribution in seconds: the sum of per-chunk handler time for a streamed "
                "response, or the interval from response headers to completion for a non-streaming response.",
                (),
                bounds=_RESPONSE_HANDLING,
            ),
        )
        attempts = "Total number of scheduling attempts."
        self.scheduler_attempts = counter(
            ("status", "target_model_name", "pod_name", "endpoint_name", "namespace", "port"),
            _gie(
                "extension_scheduler_attempts_total",
                attempts,
                ("status", "target_model_name", "pod_name", "namespace", "port"),
            ),
            _llm_d(
                "scheduler_attempts_total",
                attempts,
                ("status", "target_model_name", "endpoint_name", "namespace", "port"),
            ),
        )
        plugin = ("extension_point", "plugin_type", "plugin_name")
        took = (
            "Plugin processing latency distribution in seconds for each extension point, plugin type and plugin name."
        )
        self.plugin_duration_s = histogram(
            plugin,
            _gie("extension_plugin_duration_seconds", took, plugin, bounds=_SUB_MS),
            _llm_d("plugin_duration_seconds", took, plugin, bounds=_SUB_MS),
        )
        self.plugin_errors = counter(
            plugin,
            View(
                "llm_epp_plugin_errors_total", "Calls of a plugin that raised; its contribution was left out.", plugin
            ),
        )
        rewrite = ("model_rewrite_name", "model_name", "target_model")
        rewrites = "Total number of inference model rewrite decisions."
        self.model_rewrites = counter(
            rewrite,
            _gie("extension_model_rewrite_decisions_total", rewrites, rewrite),
            _llm_d("model_rewrite_decisions_total", rewrites, rewrite),
        )
        build = ("commit", "build_ref")
        information = "General information of the current build of Inference Extension."
        self.info = gauge_family(build, _gie("extension_info", information, build), _llm_d("info", information, build))
        self.unexpected_messages = counter(
            (),
            View("llm_epp_unexpected_messages_total", "ext_proc messages that the protocol has no place for.", ()),
        )
        self.response_bodies = counter(
            ("read",),
            View(
                "llm_epp_response_bodies_total",
                "Responses whose bodies the proxy sent, by whether anything in the configuration reads them.",
                ("read",),
            ),
        )
        self.config_reloads = counter(
            ("result",),
            View(
                "llm_epp_config_reloads_total",
                "Changes of the configuration file: applied, unchanged (it means the same) or refused (it is wrong).",
                ("result",),
            ),
        )
        self.streams_open = gauge_family(
            (), _llm_d("extproc_streams_inflight", "Number of ext_proc gRPC streams currently open.", ())
        )
        self.stream_duration_s = histogram(
            (),
            _llm_d(
                "extproc_stream_duration_seconds",
                "Duration an ext_proc gRPC stream stays open, in seconds.",
                (),
                bounds=_STREAM,
            ),
        )
        self.streams_closed = counter(
            ("code",),
            _llm_d("extproc_streams_total", "Total ext_proc gRPC streams completed, by gRPC status code.", ("code",)),
        )

    def __iter__(self) -> Iterator[Family[Any]]:
        """The families to show, in the order in which they are defined."""
        streams = (self.streams_open, self.stream_duration_s, self.streams_closed)
        for value in vars(self).values():
            if isinstance(value, Family) and (self._stream_metrics or value not in streams):
                yield value
