"""One Envoy per column, with a listener for every way of sending answers to the EPP. Pure.

all      every chunk of every answer goes through the EPP
none     no chunk does; the EPP hears of the answer's headers and of its end
sampled  all for one request in five, none for the others
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from epp.envoy import BodyMode, BootstrapOptions, RoundRobinOptions, bootstrap, round_robin_bootstrap

BODIES: Final = ("all", "none", "sampled")
SAMPLED_PERCENT: Final = 20
_EXT_PROC: Final = "envoy.filters.http.ext_proc"
_PER_ROUTE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"


def bare(endpoints: Sequence[str]) -> dict[str, Any]:
    """Envoy alone, round robin; its listeners differ in nothing."""
    base = round_robin_bootstrap(RoundRobinOptions(endpoints=tuple(endpoints)))
    return _with_listeners(base, {bodies: _listener(base) for bodies in BODIES})


def asking(epp: str, endpoints: Sequence[str]) -> dict[str, Any]:
    """Envoy with the EPP at `epp` (host:port, without TLS)."""

    def options(response_body: BodyMode) -> BootstrapOptions:
        return BootstrapOptions(epp=epp, endpoints=tuple(endpoints), response_body=response_body)

    base = bootstrap(options(BodyMode.FULL_DUPLEX_STREAMED))
    nothing = _listener(bootstrap(options(BodyMode.NONE)))
    mode = _manager(nothing)["http_filters"][0]["typed_config"]["processing_mode"]
    return _with_listeners(
        base, {"all": _listener(base), "none": nothing, "sampled": _sampled(copy.deepcopy(_listener(base)), mode)}
    )


def _sampled(listener: dict[str, Any], otherwise: dict[str, Any]) -> dict[str, Any]:
    """Splits the only route: some requests keep the listener's processing mode, the rest have `otherwise`."""
    (host,) = _manager(listener)["route_config"]["virtual_hosts"]
    (rest,) = host["routes"]
    chosen = copy.deepcopy(rest)
    share = {"numerator": SAMPLED_PERCENT, "denominator": "HUNDRED"}
    chosen["match"]["runtime_fraction"] = {"default_value": share, "runtime_key": "bench.sampled"}
    overrides = {"@type": _PER_ROUTE, "overrides": {"processing_mode": otherwise}}
    rest["typed_per_filter_config"] = {_EXT_PROC: overrides}
    host["routes"] = [chosen, rest]
    return listener


def _with_listeners(base: dict[str, Any], listeners: dict[str, dict[str, Any]]) -> dict[str, Any]:
    base["static_resources"]["listeners"] = [{**listener, "name": name} for name, listener in listeners.items()]
    return base


def _listener(bootstrap: dict[str, Any]) -> dict[str, Any]:
    (listener,) = bootstrap["static_resources"]["listeners"]
    return dict(listener)


def _manager(listener: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager
