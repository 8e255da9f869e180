"""Predicted and actual latencies in numbers: llm-d's metrics of single requests, and our own of how good predictions are."""

from __future__ import annotations

import math
from typing import Final

from epp.api import Handle, LatencyRecord, Request
from epp_plugins.latency.course import UNLEARNED, Lesson
from epp_plugins.latency.learner import Learner

_LATENCY_S: Final = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
    *(120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
_TPOT_S: Final = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1, 1.5, 2, 3, 4.5, 6, 12, 18, 24, 30, 36, 48, 60, 90, 120, 180, 270, 360),
)
# The first two are ours: what takes 9 ms elsewhere takes less than 0.1 ms here.
_PREDICTION_S: Final = (
    *(0.00002, 0.00005),
    *(0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
_ERROR: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
_LOG_ERROR: Final = (-2, -1, -0.5, -0.25, -0.1, -0.05, 0, 0.05, 0.1, 0.25, 0.5, 1, 2)
_KINDS: Final = (
    *("ttft", "predicted_ttft", "ttft_prediction_duration", "ttft_slo_violation"),
    *("tpot", "predicted_tpot", "tpot_prediction_duration", "tpot_slo_violation"),
)
_MOST_MODELS: Final = 1000

# Why nothing was predicted for a request.
UNTRAINED: Final = "untrained"
TRAINING_ONLY: Final = "training only"
UNAVAILABLE: Final = "unavailable"
_REASONS: Final = (UNTRAINED, TRAINING_ONLY, UNAVAILABLE, "deadline", "failed", "busy")


class _OfModel:
    """The children for one pair of model names."""

    __slots__ = (
        "gauges",
        "predicted_tpot_s",
        "predicted_ttft_s",
        "tpot_took_s",
        "tpot_violations",
        "ttft_took_s",
        "ttft_violations",
    )

    def __init__(self, made: LatencyMetrics, labels: tuple[str, ...]) -> None:
        self.predicted_ttft_s = made.predicted_ttft_s.labels(*labels)
        self.predicted_tpot_s = made.predicted_tpot_s.labels(*labels)
        self.ttft_took_s = made.ttft_took_s.labels(*labels)
        self.tpot_took_s = made.tpot_took_s.labels(*labels)
        self.ttft_violations = made.violations.labels(*labels, "ttft")
        self.tpot_violations = made.violations.labels(*labels, "tpot")
        self.gauges = {kind: made.last.labels(*labels, kind) for kind in _KINDS}


class LatencyMetrics:
    def __init__(self, handle: Handle, plugin_type: str) -> None:
        metrics = handle.metrics
        self._plugin = (handle.name, plugin_type)
        self._models: dict[tuple[str, str], _OfModel] = {}
        labels = ("model_name", "target_model_name", "plugin_name", "plugin_type")
        self.last = metrics.gauge(
            "llm_d_epp_inference_request_metric",
            "The last request's latency (seconds), prediction of it, time that the prediction took, or SLO violation (0 or 1).",
            (*labels, "type"),
        )
        self.predicted_ttft_s = metrics.histogram(
            "llm_d_epp_request_predicted_ttft_seconds",
            "Predicted time to first token on the chosen endpoint, in seconds.",
            labels,
            buckets=_LATENCY_S,
        )
        self.predicted_tpot_s = metrics.histogram(
            "llm_d_epp_request_predicted_tpot_seconds",
            "Predicted time per output token on the chosen endpoint, in seconds.",
            labels,
            buckets=_TPOT_S,
        )
        took = "Time that predicting both latencies took for all candidates of a request, in seconds."
        self.ttft_took_s = metrics.histogram(
            "llm_d_epp_request_ttft_prediction_duration_seconds", took, labels, buckets=_PREDICTION_S
        )
        self.tpot_took_s = metrics.histogram(
            "llm_d_epp_request_tpot_prediction_duration_seconds", took, labels, buckets=_PREDICTION_S
        )
        self.violations = metrics.counter(
            "llm_d_epp_request_slo_violation_total",
            "Requests whose latency was over the SLO that they asked for.",
            (*labels, "type"),
        )
        self._make_own(handle)

    def _make_own(self, handle: Handle) -> None:
        metrics, name = handle.metrics, handle.name
        error = metrics.histogram(
            "llm_epp_latency_error_ratio",
            "Distance of the observed latency from the predicted median, as a share of the observed one.",
            ("plugin_name", "target"),
            buckets=_ERROR,
        )
        log_error = metrics.histogram(
            "llm_epp_latency_log_error",
            "Logarithm of observed over predicted latency: above 0 it took longer than predicted.",
            ("plugin_name", "target"),
            buckets=_LOG_ERROR,
        )
        learnt = metrics.counter(
            "llm_epp_latency_observations_total",
            "Latencies that were observed (learnt from, up to maxLearntPerSec); censored: of requests that were given up, "
            "so that they are lower bounds.",
            ("plugin_name", "target", "censored"),
        )
        unlearned = metrics.counter(
            "llm_epp_latency_unlearned_total",
            "Requests whose end taught nothing, by reason.",
            ("plugin_name", "reason"),
        )
        fallbacks = metrics.counter(
            "llm_epp_latency_fallbacks_total",
            "Requests for which nothing was predicted, by reason.",
            ("plugin_name", "reason"),
        )
        targets = ("ttft", "tpot")
        self._error = {target: error.labels(name, target) for target in targets}
        self._log_error = {target: log_error.labels(name, target) for target in targets}
        self._learnt = {
            (target, censored): learnt.labels(name, target, str(censored).lower())
            for target in targets
            for censored in (False, True)
        }
        self._unlearned = {reason: unlearned.labels(name, reason) for reason in UNLEARNED}
        self._fallbacks = {reason: fallbacks.labels(name, reason) for reason in _REASONS}
        self._coverage = metrics.gauge(
            "llm_epp_latency_coverage_ratio",
            "Share of the last 500 latencies that lay within the interval predicted for them, which promises 0.9.",
            ("plugin_name", "target"),
        )
        self._median_error = metrics.gauge(
            "llm_epp_latency_median_error_ratio",
            "Median distance of the last 500 latencies from the predicted median, as a share of that.",
            ("plugin_name", "target"),
        )
        self._age_s = metrics.gauge(
            "llm_epp_latency_model_age_seconds", "Seconds since the model in use was fitted.", ("plugin_name", "target")
        )
        self._samples = metrics.gauge(
            "llm_epp_latency_model_samples", "Samples that the model in use was fitted on.", ("plugin_name", "target")
        )
        self._fits = metrics.counter(
            "llm_epp_latency_fits_total",
            "What came of fits: published, rejected (not better than the model in use), refused (nothing can be learnt "
            "from these samples), failed; or the process died.",
            ("plugin_name", "result"),
        )
        self._counted_fits: dict[str, int] = {}
        self._running = metrics.gauge(
            "llm_epp_latency_training_running", "1 while the training process runs.", ("plugin_name",)
        ).labels(name)

    # --- requests ------------------------------------------------------------------------------------------------------------

    def fell_back(self, reason: str) -> None:
        """Nothing was predicted for a request."""
        self._fallbacks[reason].inc()

    def dispatched(self, request: Request, record: LatencyRecord, took_s: float) -> None:
        """What was predicted for the chosen endpoint; `took_s` for all candidates."""
        of_model = self._of(request)
        if not math.isnan(record.predicted_ttft_ms):
            predicted_s = record.predicted_ttft_ms / 1e3
            of_model.predicted_ttft_s.observe(predicted_s)
            of_model.ttft_took_s.observe(took_s)
            of_model.gauges["predicted_ttft"].set(predicted_s)
            of_model.gauges["ttft_prediction_duration"].set(took_s)
        if not math.isnan(record.predicted_tpot_ms):
            predicted_s = record.predicted_tpot_ms / 1e3
            of_model.predicted_tpot_s.observe(predicted_s)
            of_model.tpot_took_s.observe(took_s)
            of_model.gauges["predicted_tpot"].set(predicted_s)
            of_model.gauges["tpot_prediction_duration"].set(took_s)

    def first_token(self, request: Request, record: LatencyRecord) -> None:
        of_model = self._of(request)
        of_model.gauges["ttft"].set(record.ttft_ms / 1e3)
        self._compare("ttft", record.ttft_ms, record.predicted_ttft_ms)
        self._learnt["ttft", False].inc()
        if record.ttft_slo_ms < math.inf:
            violated = record.ttft_ms > record.ttft_slo_ms
            of_model.gauges["ttft_slo_violation"].set(violated)
            of_model.ttft_violations.inc(violated)

    def ended(self, request: Request, record: LatencyRecord, taught: Lesson) -> None:
        if taught.unlearned:
            self._unlearned[taught.unlearned].inc()
        if taught.ttft_ms is not None:
            self._learnt["ttft", taught.is_censored].inc()
        tpot_ms = taught.tpot_ms
        if tpot_ms is None:
            return
        self._learnt["tpot", taught.is_censored].inc()
        if taught.is_censored:
            return
        of_model = self._of(request)
        of_model.gauges["tpot"].set(tpot_ms / 1e3)
        self._compare("tpot", tpot_ms, record.predicted_tpot_ms)
        if record.tpot_slo_ms < math.inf:
            violated = tpot_ms > record.tpot_slo_ms
            of_model.gauges["tpot_slo_violation"].set(violated)
            of_model.tpot_violations.inc(violated)

    def _compare(self, target: str, observed_ms: float, predicted_ms: float) -> None:
        if predicted_ms > 0 and observed_ms > 0:  # not NaN
            self._error[target].observe(abs(predicted_ms / observed_ms - 1))
            self._log_error[target].observe(math.log(observed_ms / predicted_ms))

    def _of(self, request: Request) -> _OfModel:
        key = (request.incoming_model, request.model)
        found = self._models.get(key)
        if found is None:
            if len(self._models) >= _MOST_MODELS:  # clients choose the names
                self._models.clear()
            found = self._models[key] = _OfModel(self, (*key, *self._plugin))
        return found

    # --- once a second -------------------------------------------------------------------------------------------------------

    def refresh(self, learner: Learner) -> None:
        """Bring gauges and the counts of fits up to date."""
        name = self._plugin[0]
        for target, status in learner.predictor.status().items():
            self._age_s.labels(name, target).set(status.age_s)
            self._samples.labels(name, target).set(status.samples)
        for target, judged in learner.predictor.judged().items():
            self._coverage.labels(name, target).set(judged.coverage)
            self._median_error.labels(name, target).set(judged.median_error)
        training = learner.training
        self._running.set(training is not None and training.is_running)
        for result, count in (training.outcomes if training is not None else {}).items():
            new = count - self._counted_fits.get(result, 0)
            if new > 0:
                self._fits.labels(name, result).inc(new)
            self._counted_fits[result] = count
