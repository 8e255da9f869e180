"""Every in-tree plugin by its type, and the type names of earlier releases of the Go EPP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from epp.api import ConfigError, Plugin
from epp_plugins.builtin_datalayer import DATA_LAYER
from epp_plugins.builtin_latency import LATENCY
from epp_plugins.builtin_more import MORE
from epp_plugins.builtin_parsers import PARSERS
from epp_plugins.builtin_scheduling import SCHEDULING


def by_type(classes: Iterable[type[Plugin]]) -> dict[str, type[Plugin]]:
    """The classes by their types, in the order given. Raises ConfigError when two have the same type."""
    table: dict[str, type[Plugin]] = {}
    for cls in classes:
        other = table.setdefault(cls.type, cls)
        if other is not cls:
            raise ConfigError(f'{other.__qualname__} and {cls.__qualname__} both have the plugin type "{cls.type}"')
    return table


BUILTIN: Final[dict[str, type[Plugin]]] = by_type((*SCHEDULING, *MORE, *LATENCY, *PARSERS, *DATA_LAYER))

# Former names of types that take the same parameters.
ALIASES: Final[dict[str, str]] = {
    "tokenizer": "token-producer",
    "slo-scorer": "predicted-latency-scorer",
    "slo-aware-routing": "predicted-latency-scorer",
}

# Deprecated types, there or not, and what does their work today.
REPLACED: Final[dict[str, tuple[str, ...]]] = {
    "by-label": ("label-selector-filter",),
    "by-label-selector": ("label-selector-filter",),
    "disagg-headers-handler": ("disagg-profile-handler",),
    "prefill-header-handler": ("disagg-profile-handler",),
    "pd-profile-handler": ("disagg-profile-handler",),
    "data-parallel-profile-handler": ("single-profile-handler",),
    "precise-prefix-cache-scorer": ("precise-prefix-cache-producer", "prefix-cache-scorer"),
    "active-request-filter": ("utilization-filter",),
    "slo-request-tracker": ("predicted-latency-producer",),
    "predicted-latency-scorer": ("predicted-latency-producer", "latency-scorer"),
}
