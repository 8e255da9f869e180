"""Complete Envoy bootstraps, as JSON-able dicts: one that asks an EPP, one that balances by itself; and the two parts of the
first that an Envoy with a configuration of its own needs. Pure.

Both listen for HTTP/1.1 and HTTP/2 without TLS, never cut a stream short, and write no access log.
"""

from __future__ import annotations

from epp.envoy.clusters import epp_cluster, upstream_cluster
from epp.envoy.ext_proc import ext_proc, subset_hint
from epp.envoy.forms import TYPE, JsonObject, address_of, extension
from epp.envoy.options import BootstrapOptions, RoundRobinOptions
from epp.envoy.probes import admin_cluster, probes_listener
from epp.envoy.routes import routes

LISTENER = "traffic"

_REQUEST_ID = f"{TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig"
_COSTLY_STATS = ("_time", "_time_ms", "_length_ms", "_us", "_size")


def bootstrap(options: BootstrapOptions) -> JsonObject:
    """An Envoy with an ext_proc filter in front of the model servers. Raises ValueError on a malformed address."""
    return _bootstrap(options, _filters(options), [epp_cluster(options), upstream_cluster(options)])


def round_robin_bootstrap(options: RoundRobinOptions) -> JsonObject:
    """A plain Envoy over the endpoints. Raises ValueError on a malformed address."""
    return _bootstrap(options, [], [upstream_cluster(options)])


def filter_and_routes(options: BootstrapOptions) -> JsonObject:
    """``http_filters``, to stand before the router's, and ``routes`` of a virtual host. They name two clusters, ``epp`` and
    ``model_servers``, as `bootstrap` writes them."""
    return {"http_filters": _filters(options), "routes": routes(options)}


def _filters(options: BootstrapOptions) -> list[JsonObject]:
    hint = [] if options.subset_hint_header is None else [subset_hint(options.subset_hint_header)]
    return [*hint, ext_proc(options)]


def _bootstrap(
    options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject], clusters: list[JsonObject]
) -> JsonObject:
    listeners = [_listener(options, filters)]
    if options.probes_host is not None:
        listeners.append(probes_listener(options.probes_host, options.probes_port))
        clusters = [*clusters, admin_cluster(options.admin_host, options.admin_port)]
    config: JsonObject = {
        "admin": {"address": address_of(options.admin_host, options.admin_port)},
        # What /runtime_modify changes; without this layer it is refused.
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    if not options.histograms:
        suffixes = [{"suffix": suffix} for suffix in _COSTLY_STATS]
        config["stats_config"] = {"stats_matcher": {"exclusion_list": {"patterns": suffixes}}}
    return config


def _listener(options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject]) -> JsonObject:
    return {
        "name": LISTENER,
        "address": address_of(options.listen_host, options.listen_port),
        "per_connection_buffer_limit_bytes": options.buffer_limit_bytes,
        "filter_chains": [{"filters": [_connection_manager(options, filters)]}],
    }


def _connection_manager(options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject]) -> JsonObject:
    everything = {"name": "all", "domains": ["*"], "routes": routes(options)}
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        codec_type="AUTO",
        use_remote_address=True,
        preserve_external_request_id=True,
        # By default Envoy marks a request id that is a UUID, which then is another one in the EPP's log than the client sent.
        request_id_extension={"typed_config": {"@type": _REQUEST_ID, "pack_trace_reason": False}},
        normalize_path=True,
        merge_slashes=True,
        server_header_transformation="PASS_THROUGH",
        http_protocol_options={"enable_trailers": True},
        stream_idle_timeout="0s",
        request_timeout="0s",
        route_config={"name": "all", "virtual_hosts": [everything]},
        http_filters=[*filters, extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
