"""The HTTP filter that asks the EPP, and what a route changes about it. Pure."""

from __future__ import annotations

from epp.envoy.clusters import DESTINATION, EPP_CLUSTER, LB_NAMESPACE
from epp.envoy.forms import TYPE, JsonObject, extension, seconds
from epp.envoy.options import BodyMode, BootstrapOptions

EXT_PROC = "envoy.filters.http.ext_proc"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = f"{DESTINATION}-subset"

_MESSAGES = "filters.http.ext_proc.v3"
_NOT_THE_SAME = extension(
    "envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate"
)
# A host that is gone has the fewest requests, and so is chosen again most of the time: with 5 looks a quarter of the times.
_LOOKS = 50


def ext_proc(options: BootstrapOptions) -> JsonObject:
    """The filter. Where response bodies are sampled it sends none, and the route of the sample overrides that."""
    sampled = options.response_body_fraction is not None
    return extension(
        EXT_PROC,
        f"{_MESSAGES}.ExternalProcessor",
        grpc_service=_service(options),
        processing_mode=_processing_mode(options, BodyMode.NONE if sampled else options.response_body),
        message_timeout=seconds(options.message_timeout_s),
        failure_mode_allow=options.failure_mode_allow,
        allow_mode_override=options.allow_mode_override,
        metadata_options={
            "forwarding_namespaces": {"untyped": [LB_NAMESPACE, SUBSET_NAMESPACE]},
            "receiving_namespaces": {"untyped": [LB_NAMESPACE]},
        },
    )


def _service(options: BootstrapOptions) -> JsonObject:
    service: JsonObject = {"envoy_grpc": {"cluster_name": EPP_CLUSTER, "authority": options.epp}}
    if options.epp_retries:
        service["retry_policy"] = {
            "retry_on": "reset,unavailable",
            "num_retries": options.epp_retries,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "retry_host_predicate": [_NOT_THE_SAME],
            "host_selection_retry_max_attempts": _LOOKS,
        }
    return service


def send_response_bodies(options: BootstrapOptions) -> JsonObject:
    """A route's ``typed_per_filter_config``. It replaces the filter's whole processing mode, hence all six are in it."""
    overrides = {"processing_mode": _processing_mode(options, options.response_body)}
    return {EXT_PROC: {"@type": f"{TYPE}.extensions.{_MESSAGES}.ExtProcPerRoute", "overrides": overrides}}


def _processing_mode(options: BootstrapOptions, response_body: BodyMode) -> JsonObject:
    return {
        "request_header_mode": "SEND",
        "request_body_mode": options.request_body.value,
        "request_trailer_mode": "SEND",
        "response_header_mode": "SEND",
        "response_body_mode": response_body.value,
        # Without trailers, NONE for the body would end the stream at the headers: the end of an answer would go unseen.
        "response_trailer_mode": "SEND",
    }


def subset_hint(header: str) -> JsonObject:
    """A filter that turns a header into the subset hint, which the protocol wants as a list: Lua can set one, set_metadata
    can not."""
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
    return extension("envoy.filters.http.lua", "filters.http.lua.v3.Lua", default_source_code=source)
