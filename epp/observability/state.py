"""What the debug pages show of the fleet and of plugins, as plain data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from epp.api import METRICS_UPDATED_S, Endpoint, Exporter, Fleet, Plugin, StateDumper
from epp.observability.pool import ScrapeCounts

_log: Final = logging.getLogger(__name__)


def _nothing() -> Iterable[tuple[str, str, float]]:
    return ()


def endpoints_state(
    fleet: Fleet, clock: Callable[[], float], *, pool_name: str, scrapes: ScrapeCounts = _nothing
) -> dict[str, object]:
    """Every endpoint with its columns. `metrics_age_s` is None before the first page; `scrapes` counts by result."""
    counts: dict[str, dict[str, float]] = {}
    for name, result, count in scrapes():
        counts.setdefault(name, {})[result] = count
    now_s = clock()
    endpoints = [_endpoint_state(fleet, e, now_s) | {"scrapes": counts.get(e.name, {})} for e in fleet.candidates()]
    return {"timestamp": _timestamp(), "pool": pool_name, "endpoints": endpoints}


def _endpoint_state(fleet: Fleet, endpoint: Endpoint, now_s: float) -> dict[str, object]:
    updated_s = float(fleet.columns[METRICS_UPDATED_S][endpoint.row])
    columns = {n: float(c[endpoint.row]) for n, c in fleet.columns.items() if n != METRICS_UPDATED_S}
    return {
        "name": endpoint.name,
        "namespace": endpoint.namespace,
        "address": endpoint.host_port,
        "metrics_address": endpoint.metrics_host_port,
        "row": endpoint.row,
        "labels": dict(endpoint.labels),
        "columns": columns,
        "silent": fleet.is_silent(endpoint),
        "metrics_age_s": now_s - updated_s if updated_s != float("-inf") else None,
        "lora_active": sorted(endpoint.lora_active),
        "lora_waiting": sorted(endpoint.lora_waiting),
        "attributes": {name: str(value) for name, value in endpoint.attributes.items()},
    }


def plugins_state(plugins: Mapping[str, Plugin]) -> dict[str, object]:
    """The state of each plugin that shows one, in the Go EPP's form; `message` instead where a plugin fails to."""
    shown: dict[str, object] = {}
    for name, plugin in plugins.items():
        if not isinstance(plugin, StateDumper):
            continue
        entry: dict[str, object] = {"name": name, "type": plugin.type}
        try:
            entry["state"] = plugin.dump_state()
        except Exception as error:
            _log.warning("plugin %s cannot show its state", name, exc_info=error)
            entry["message"] = f"no state: {type(error).__name__}"
        shown[name] = entry
    return {"timestamp": _timestamp(), "plugins": shown}


def exported(plugins: Mapping[str, Plugin], name: str) -> tuple[Iterator[bytes], str] | None:
    """What the plugin `name` hands out as a file, in pieces, and its content type. None: it hands out none."""
    plugin = plugins.get(name)
    return (iter(plugin.export()), plugin.content_type) if isinstance(plugin, Exporter) else None


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
