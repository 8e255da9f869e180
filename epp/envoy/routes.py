"""The routes: everything goes to the model servers, and where response bodies are sampled, by one of two routes. Pure."""

from __future__ import annotations

from epp.envoy.clusters import UPSTREAM_CLUSTER
from epp.envoy.ext_proc import send_response_bodies
from epp.envoy.forms import JsonObject, seconds
from epp.envoy.options import DAY_S, BootstrapOptions, RoundRobinOptions

FRACTION_KEY = "epp.response_bodies"
"""Run-time key of the sampled fraction: POST /runtime_modify?epp.response_bodies=25 on Envoy's admin port makes it 25 %."""

# FractionalPercent knows these three.
_DENOMINATORS = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
# Only what happens before an endpoint has begun: a model server must not run one prompt twice.
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"


def routes(options: BootstrapOptions | RoundRobinOptions) -> list[JsonObject]:
    """One route, or two: that of the sample, with response bodies, before that of all others."""
    everything: JsonObject = {"match": {"prefix": "/"}, "route": _action(options)}
    if isinstance(options, RoundRobinOptions) or options.response_body_fraction is None:
        return [everything]
    fraction = {"default_value": _percent(options.response_body_fraction), "runtime_key": FRACTION_KEY}
    sample: JsonObject = {
        "match": {"prefix": "/", "runtime_fraction": fraction},
        "route": _action(options),
        "typed_per_filter_config": send_response_bodies(options),
    }
    return [{"name": "with-response-bodies", **sample}, {"name": "without-response-bodies", **everything}]


def _action(options: BootstrapOptions | RoundRobinOptions) -> JsonObject:
    action: JsonObject = {
        "cluster": UPSTREAM_CLUSTER,
        "timeout": seconds(options.request_timeout_s),
        "idle_timeout": seconds(DAY_S),
    }
    if options.retries:
        action["retry_policy"] = {"retry_on": _RETRY_ON, "num_retries": options.retries}
    return action


def _percent(fraction: float) -> JsonObject:
    """A FractionalPercent with the smallest denominator that says it exactly, else in millionths."""
    exact = (n for n, parts in _DENOMINATORS.items() if abs(round(fraction * parts) - fraction * parts) < 1e-9)
    name = next(exact, "MILLION")
    return {"numerator": round(fraction * _DENOMINATORS[name]), "denominator": name}
