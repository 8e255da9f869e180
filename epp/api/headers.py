"""Names on the wire: request and response headers, metadata namespaces and keys.

Two families exist, one of the Gateway API Inference Extension and one of llm-d. Both are accepted and the llm-d name wins
when both are present. All names are lower case, as HTTP/2 demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DESTINATION_ENDPOINT: Final = "x-gateway-destination-endpoint"
DESTINATION_ENDPOINT_SERVED: Final = "x-gateway-destination-endpoint-served"
DESTINATION_ENDPOINT_SUBSET: Final = "x-gateway-destination-endpoint-subset"
DESTINATION_ENDPOINT_SCORES: Final = "x-gateway-destination-endpoint-scores"
METADATA_NAMESPACE: Final = "envoy.lb"
SUBSET_METADATA_NAMESPACE: Final = "envoy.lb.subset_hint"

REQUEST_ID: Final = "x-request-id"
WENT_INTO_RESPONSE_HEADERS: Final = "x-went-into-resp-headers"
DROPPED_REASON: Final = "x-llm-d-request-dropped-reason"
# Set on the request that goes upstream, read by the routing proxy in front of a model server.
PREFILLER: Final = "x-prefiller-host-port"
ENCODERS: Final = "x-encoder-hosts-ports"
DATA_PARALLEL_RANK: Final = "x-data-parallel-host-port"
KV_CACHE_SOURCE: Final = "x-kv-cache-source-host-port"
TEST_ENDPOINT_SELECTION: Final = "test-epp-endpoint-selection"
CONFORMANCE_SERVED_ENDPOINT: Final = "x-conformance-test-served-endpoint"

# Each control header: the names that carry it, the winning one first.
OBJECTIVE: Final = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
FAIRNESS_ID: Final = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
MODEL_REWRITE: Final = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
SLO_TTFT_MS: Final = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
SLO_TPOT_MS: Final = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
# Whether predictions decide about a request, for profile handlers that leave it to the client.
BY_PREDICTION: Final = "x-prediction-based-scheduling"
NOT_BY_PREDICTION: Final = "x-prediction-based-scheduling-off"

# What a client says of the videos in its request, for estimates of their tokens.
VIDEO_SECONDS: Final = "x-llm-d-video-duration-seconds"
VIDEO_RESOLUTION: Final = "x-llm-d-video-resolution"  # WIDTHxHEIGHT
VIDEO_FPS: Final = "x-llm-d-video-fps"
VIDEO_HINTS: Final = (VIDEO_SECONDS, VIDEO_RESOLUTION, VIDEO_FPS)

DEFAULT_FAIRNESS_ID: Final = "default-flow"


def first_of(headers: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The value of the first of `names` that is present and not empty, else the empty string."""
    for name in names:
        value = headers.get(name)
        if value:
            return value
    return ""
