"""Two complete Envoy bootstraps, as JSON-able dicts: one that asks an EPP, one that balances by itself. Pure.

Both listen on 127.0.0.1 for HTTP/1.1 and HTTP/2 without TLS, never cut a stream short, and write no access log.
"""

from __future__ import annotations

from epp.envoy.clusters import (
    DESTINATION,
    EPP_CLUSTER,
    LB_NAMESPACE,
    UPSTREAM_CLUSTER,
    JsonObject,
    epp_cluster,
    socket_address,
    upstream_cluster,
)
from epp.envoy.options import BootstrapOptions, RoundRobinOptions

LISTENER = "traffic"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = f"{DESTINATION}-subset"

_TYPE = "type.googleapis.com/envoy"
_DAY_S = 86400
# Only what happens before an endpoint has begun: a model server must not run one prompt twice.
_RETRY_ON = "connect-failure,refused-stream,reset-before-request"
# Histograms are the statistics that cost; counters are next to free.
_COSTLY_STATS = ("_time", "_time_ms", "_length_ms", "_us", "_size")


def bootstrap(options: BootstrapOptions) -> JsonObject:
    """An Envoy with an ext_proc filter in front of the model servers. Raises ValueError on a malformed address."""
    filters = [_ext_proc(options)]
    if options.subset_hint_header is not None:
        filters.insert(0, _subset_hint(options.subset_hint_header))
    return _bootstrap(options, filters, [epp_cluster(options), upstream_cluster(options)])


def round_robin_bootstrap(options: RoundRobinOptions) -> JsonObject:
    """A plain Envoy over the endpoints. Raises ValueError on a malformed address."""
    return _bootstrap(options, [], [upstream_cluster(options)])


def _bootstrap(
    options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject], clusters: list[JsonObject]
) -> JsonObject:
    suffixes = [{"suffix": suffix} for suffix in _COSTLY_STATS]
    return {
        "admin": {"address": socket_address(f"127.0.0.1:{options.admin_port}")},
        "stats_config": {"stats_matcher": {"exclusion_list": {"patterns": suffixes}}},
        "static_resources": {"listeners": [_listener(options, filters)], "clusters": clusters},
    }


def _listener(options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject]) -> JsonObject:
    return {
        "name": LISTENER,
        "address": socket_address(f"127.0.0.1:{options.listen_port}"),
        "per_connection_buffer_limit_bytes": options.buffer_limit_bytes,
        "filter_chains": [{"filters": [_connection_manager(options, filters)]}],
    }


def _connection_manager(options: BootstrapOptions | RoundRobinOptions, filters: list[JsonObject]) -> JsonObject:
    route: JsonObject = {"cluster": UPSTREAM_CLUSTER, "timeout": f"{_DAY_S}s", "idle_timeout": f"{_DAY_S}s"}
    if options.retries:
        route["retry_policy"] = {"retry_on": _RETRY_ON, "num_retries": options.retries}
    everything = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    return _filter(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        codec_type="AUTO",
        use_remote_address=True,
        preserve_external_request_id=True,
        normalize_path=True,
        merge_slashes=True,
        server_header_transformation="PASS_THROUGH",
        http_protocol_options={"enable_trailers": True},
        stream_idle_timeout="0s",
        request_timeout="0s",
        route_config={"name": "all", "virtual_hosts": [everything]},
        http_filters=[*filters, _filter("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )


def _ext_proc(options: BootstrapOptions) -> JsonObject:
    return _filter(
        "envoy.filters.http.ext_proc",
        "filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": EPP_CLUSTER, "authority": options.epp}},
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": options.request_body.value,
            "request_trailer_mode": "SEND",
            "response_header_mode": "SEND",
            "response_body_mode": options.response_body.value,
            # Without trailers, NONE for the body would end the stream at the headers: the end of an answer would go unseen.
            "response_trailer_mode": "SEND",
        },
        message_timeout=f"{options.message_timeout_s:.3f}s",
        failure_mode_allow=options.failure_mode_allow,
        allow_mode_override=options.allow_mode_override,
        metadata_options={
            "forwarding_namespaces": {"untyped": [LB_NAMESPACE, SUBSET_NAMESPACE]},
            "receiving_namespaces": {"untyped": [LB_NAMESPACE]},
        },
    )


def _subset_hint(header: str) -> JsonObject:
    """Turns a header into the subset hint. The protocol wants a list there, which Lua can set and set_metadata can not."""
    code = f"""
function envoy_on_request(handle)
  local value = handle:headers():get("{header}")
  if value == nil then return end
  local endpoints = {{}}
  for endpoint in string.gmatch(value, "[^, ]+") do table.insert(endpoints, endpoint) end
  -- An empty Lua table would arrive as a struct, not as a list.
  if #endpoints == 0 then return end
  handle:streamInfo():dynamicMetadata():set("{SUBSET_NAMESPACE}", "{SUBSET_KEY}", endpoints)
end
"""
    source = {"inline_string": code}
    return _filter("envoy.filters.http.lua", "filters.http.lua.v3.Lua", default_source_code=source)


def _filter(name: str, message: str, **fields: object) -> JsonObject:
    """A named extension with its typed configuration."""
    return {"name": name, "typed_config": {"@type": f"{_TYPE}.extensions.{message}", **fields}}
