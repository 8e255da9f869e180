"""Two of Envoy's admin pages for others: whether it is ready, and its statistics. Pure.

The admin port itself stays inside: who reaches it can stop Envoy.
"""

from __future__ import annotations

from epp.envoy.forms import JsonObject, address_of, extension

PROBES = "probes"
PAGES = ("/ready", "/stats/prometheus")

_ADMIN_CLUSTER = "admin"


def probes_listener(host: str, port: int) -> JsonObject:
    """The listener. Everything but `PAGES` is not found there."""
    routes = [{"match": {"path": page}, "route": {"cluster": _ADMIN_CLUSTER}} for page in PAGES]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=PROBES,
        route_config={"name": PROBES, "virtual_hosts": [{"name": PROBES, "domains": ["*"], "routes": routes}]},
        http_filters=[extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    return {"name": PROBES, "address": address_of(host, port), "filter_chains": [{"filters": [manager]}]}


def admin_cluster(host: str, port: int) -> JsonObject:
    """The admin port as something to forward to."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address_of(host, port)}}]}]
    return {
        "name": _ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": _ADMIN_CLUSTER, "endpoints": endpoints},
    }
