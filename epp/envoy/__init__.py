"""Envoy configuration as data: what to write into a bootstrap so that Envoy asks an EPP. Pure."""

from epp.envoy.bootstrap import bootstrap, filter_and_routes, round_robin_bootstrap
from epp.envoy.options import BodyMode, BootstrapOptions, RoundRobinOptions, Upstream

__all__ = [
    "BodyMode",
    "BootstrapOptions",
    "RoundRobinOptions",
    "Upstream",
    "bootstrap",
    "filter_and_routes",
    "round_robin_bootstrap",
]
