"""Configurations, by name: those that both EPPs are run with, and those that both have to judge."""

from __future__ import annotations

from typing import Any, Final

Config = dict[str, Any]


def profile(*weighted: tuple[str, float] | str, name: str = "default") -> Config:
    """A scheduling profile of plugins: `("queue-scorer", 2)` is a scorer and its weight."""
    entries = [{"pluginRef": p} if isinstance(p, str) else {"pluginRef": p[0], "weight": p[1]} for p in weighted]
    return {"name": name, "plugins": entries}


def plugin(type_name: str, name: str | None = None, **parameters: Any) -> Config:
    entry: Config = {"type": type_name}
    if name:
        entry["name"] = name
    if parameters:
        entry["parameters"] = parameters
    return entry


def simple(*weighted: tuple[str, float] | str, extra: tuple[Config, ...] = ()) -> Config:
    """One profile of plugins that take no parameters, or are among `extra`."""
    names = [w if isinstance(w, str) else w[0] for w in weighted]
    given = {e.get("name", e["type"]) for e in extra}
    plugins = [*extra, *(plugin(n) for n in names if n not in given)]
    return {"plugins": plugins, "schedulingProfiles": [profile(*weighted)]}


IN_FLIGHT: Final = plugin("inflight-load-producer")
SOURCE: Final = plugin("metrics-data-source", scheme="http", path="/metrics", insecureSkipVerify=True)
S1: Final[Config] = simple(
    ("queue-scorer", 2),
    ("kv-cache-utilization-scorer", 2),
    ("prefix-cache-scorer", 3),
    extra=(SOURCE, plugin("core-metrics-extractor")),
)
S4: Final[Config] = {
    "plugins": [
        plugin("approx-prefix-cache-producer", maxPrefixTokensToMatch=16384, lruCapacityPerServer=31250),
        plugin("prefix-cache-scorer"),
        plugin("queue-scorer"),
        plugin("prefill-filter"),
        plugin("decode-filter"),
        plugin("max-score-picker"),
        plugin("disagg-profile-handler", deciders={"prefill": "prefix-based-pd-decider"}),
        plugin("prefix-based-pd-decider", nonCachedTokens=16),
    ],
    "schedulingProfiles": [
        profile("prefill-filter", "max-score-picker", ("prefix-cache-scorer", 2), ("queue-scorer", 1), name="prefill"),
        profile("decode-filter", "max-score-picker", ("prefix-cache-scorer", 2), ("queue-scorer", 1), name="decode"),
    ],
}
S5: Final[Config] = {
    "plugins": [
        plugin("queue-scorer"),
        plugin("encode-filter"),
        plugin("prefill-filter"),
        plugin("decode-filter"),
        plugin(
            "disagg-profile-handler",
            deciders={"encode": "always-disagg-multimodal-decider", "prefill": "prefix-based-pd-decider"},
        ),
        plugin("always-disagg-multimodal-decider"),
        plugin("prefix-based-pd-decider", nonCachedTokens=16),
    ],
    "schedulingProfiles": [
        profile("encode-filter", name="encode"),
        profile("prefill-filter", ("queue-scorer", 1), name="prefill"),
        profile("decode-filter", ("queue-scorer", 1), name="decode"),
    ],
}
_NOWHERE: Final = {"url": "http://127.0.0.1:9"}
_TOKENS: Final = plugin("token-producer", modelName="m", vllm=_NOWHERE)
_PRECISE: Final = plugin("precise-prefix-cache-producer", tokenProcessorConfig={"blockSizeTokens": 16})
_NOTICE: Final = plugin("endpoint-notification-source")
_FLOW: Final[Config] = {"featureGates": ["flowControl"]}

SAMPLES: Final[dict[str, Config]] = {
    "S1": S1,
    "S2": {
        "plugins": [
            *S1["plugins"],
            plugin("predicted-latency-producer"),
            *(
                plugin(
                    "prefix-cache-affinity-filter",
                    name,
                    affinityThreshold=threshold,
                    ttftSource="latencyPredictor",
                    maxTTFTPenaltyMs=5000,
                )
                for name, threshold in (("strict-affinity-filter", 0.99), ("loose-affinity-filter", 0.8))
            ),
            plugin("latency-scorer"),
            plugin("weighted-random-picker"),
            plugin("slo-headroom-tier-filter"),
            plugin("latency-slo-admitter"),
        ],
        "schedulingProfiles": [
            profile(
                "predicted-latency-producer",
                "strict-affinity-filter",
                "slo-headroom-tier-filter",
                "loose-affinity-filter",
                "latency-scorer",
                "weighted-random-picker",
            )
        ],
    },
    "S3": {
        "plugins": [plugin("passthrough-parser"), plugin("active-request-scorer"), plugin("session-affinity-scorer")],
        "requestHandler": {"parsers": [{"pluginRef": "passthrough-parser"}]},
        "schedulingProfiles": [profile(("active-request-scorer", 1), ("session-affinity-scorer", 1))],
    },
    "S4": S4,
    "S5": S5,
    "S6": {
        **simple(
            ("active-request-scorer", 4),
            ("kv-cache-utilization-scorer", 2),
            ("prefix-cache-scorer", 2),
            ("no-hit-lru-scorer", 2),
            extra=(
                _TOKENS,
                _NOTICE,
                _PRECISE,
                plugin("prefix-cache-scorer", prefixMatchInfoProducerName="precise-prefix-cache-producer"),
                plugin("no-hit-lru-scorer", prefixMatchInfoProducerName="precise-prefix-cache-producer"),
            ),
        ),
        "dataLayer": {
            "sources": [
                {
                    "pluginRef": "endpoint-notification-source",
                    "extractors": [{"pluginRef": "precise-prefix-cache-producer"}],
                }
            ]
        },
    },
    "S7": simple(
        ("queue-scorer", 2),
        ("kv-cache-utilization-scorer", 2),
        ("prefix-cache-scorer", 3),
        ("no-hit-lru-scorer", 2),
        extra=(plugin("approx-prefix-cache-producer", maxPrefixTokensToMatch=100000),),
    ),
    "S8": {
        **simple(
            "endpoint-attribute-filter",
            ("endpoint-attribute-scorer", 2),
            ("kv-cache-utilization-scorer", 1),
            extra=(
                plugin("dcgm-data-source", port=9400, interval="1s"),
                plugin("dcgm-extractor"),
                plugin(
                    "endpoint-attribute-filter",
                    attribute="GPUUtilization",
                    producer="dcgm-extractor",
                    onMissing="Pass",
                    fallbackOnEmpty=True,
                    algorithm={"type": "threshold", "threshold": {"operator": "LessThanOrEqual", "value": 0.9}},
                ),
                plugin(
                    "endpoint-attribute-scorer",
                    attributeKey="GPUUtilization",
                    producer="dcgm-extractor",
                    algorithm={
                        "type": "linear_lower_is_better",
                        "normalization": {"fixedRange": {"min": 0, "max": 1}},
                    },
                ),
            ),
        ),
        "dataLayer": {"sources": [{"pluginRef": "dcgm-data-source", "extractors": [{"pluginRef": "dcgm-extractor"}]}]},
    },
    "S9": simple(
        ("prefix-cache-scorer", 2),
        ("load-aware-scorer", 1),
        extra=(
            _TOKENS,
            plugin("burst-prefix-cache-producer", windowDurationMs=100, maxPerReplica=-1, minColocateBlocks=0),
            plugin("prefix-cache-scorer", prefixMatchInfoProducerName="burst-prefix-cache-producer"),
        ),
    ),
    "S10": {
        **S1,
        **_FLOW,
        "plugins": [*S1["plugins"], plugin("program-aware-fairness")],
        "flowControl": {"defaultPriorityBand": {"fairnessPolicyRef": "program-aware-fairness"}},
    },
    "S11": {
        **S1,
        **_FLOW,
        "plugins": [*S1["plugins"], plugin("soft-reflective-ceiling-policy")],
        "flowControl": {"usageLimitPolicyPluginRef": "soft-reflective-ceiling-policy"},
    },
    "S12": {
        "plugins": [
            plugin("probabilistic-admitter"),
            plugin("random-picker"),
            plugin("utilization-detector", queueDepthThreshold=999999999, kvCacheUtilThreshold=1.0),
        ],
        "schedulingProfiles": [profile("random-picker")],
    },
    "S13": {
        **simple(
            ("prefix-cache-scorer", 10),
            ("mm-embeddings-cache-scorer", 4),
            ("queue-scorer", 1),
            extra=(_TOKENS, _NOTICE, _PRECISE, plugin("mm-embeddings-cache-producer")),
        ),
        "dataLayer": {
            "sources": [
                {
                    "pluginRef": "endpoint-notification-source",
                    "extractors": [
                        {"pluginRef": "mm-embeddings-cache-producer"},
                        {"pluginRef": "precise-prefix-cache-producer"},
                    ],
                }
            ]
        },
    },
    "S13 as shipped": simple(
        ("mm-embeddings-cache-scorer", 4), extra=(plugin("mm-embeddings-cache-producer", cacheSizeInMB=64),)
    ),
    "S14": {
        "plugins": [plugin("data-parallel-profile-handler", primaryPort=8000), plugin("queue-scorer")],
        "schedulingProfiles": [profile(("queue-scorer", 1))],
    },
}
"""The sample configurations that are in use."""

_Q: Final = simple(("queue-scorer", 1))


def _with(**changes: Any) -> Config:
    return {**_Q, **changes}


def _plugins(*more: Any) -> Config:
    return _with(plugins=[plugin("queue-scorer"), *more])


JUDGED: Final[dict[str, Config]] = {
    "unknown field at the top": _with(color="red"),
    "unknown field of a plugin": _plugins({"type": "random-picker", "color": "red"}),
    "unknown field of a profile": _with(schedulingProfiles=[profile("queue-scorer") | {"color": "red"}]),
    "unknown field of a profile's plugin": _with(
        schedulingProfiles=[{"name": "default", "plugins": [{"pluginRef": "queue-scorer", "color": 1}]}]
    ),
    "unknown parameter": _plugins(plugin("max-score-picker", color="red")),
    "parameter of a wrong type": _plugins(plugin("max-score-picker", maxNumOfEndpoints="two")),
    "whole number as Helm writes it": _plugins(plugin("no-hit-lru-scorer", lruSize=1e6)),
    "fraction of an endpoint": _plugins(plugin("max-score-picker", maxNumOfEndpoints=2.5)),
    "parameter's case differs": _plugins(plugin("max-score-picker", MaxNumOfEndpoints=2)),
    "parameters for a plugin that has none": _plugins(plugin("kv-cache-utilization-scorer", color="red")),
    "wrong kind": _with(kind="EndpointPicker"),
    "wrong apiVersion": _with(apiVersion="llm-d.ai/v7"),
    "older apiVersion": _with(apiVersion="inference.networking.x-k8s.io/v1alpha1"),
    "no apiVersion": _with(apiVersion=""),
    "guide's apiVersion": _with(apiVersion="config.x-k8s.io/v1alpha1"),
    "unknown feature gate": _with(featureGates=["teleport"]),
    "feature gate turned off": _with(featureGates=["flowControl=false"]),
    **{f"feature gate of value {v}": _with(featureGates=[f"flowControl={v}"]) for v in ("1", "t", "0", "F", "tRue")},
    "feature gate twice": _with(featureGates=["flowControl", "flowControl"]),
    "feature gate on and off": _with(featureGates=["flowControl", "flowControl=false"]),
    "feature gate with spaces": _with(featureGates=["flowControl = true"]),
    "feature gate with a strange value": _with(featureGates=["flowControl=maybe"]),
    "GIE's feature gate": _with(featureGates=["dataLayer"]),
    "plugin without type": _plugins({"name": "nameless"}),
    "unknown plugin type": _plugins(plugin("crystal-ball-scorer")),
    "two plugins of the same name": _plugins(plugin("queue-scorer")),
    "two plugins of one type, named": _plugins(plugin("queue-scorer", "other")),
    "reference to nothing": _with(schedulingProfiles=[profile("queue-scorer", "nobody")]),
    "reference by type to a named plugin": {
        "plugins": [plugin("queue-scorer", "q")],
        "schedulingProfiles": [profile("queue-scorer")],
    },
    "picker that is not declared": {**_Q, "schedulingProfiles": [profile("queue-scorer", "max-score-picker")]},
    "picker that is not declared, beside another": {
        **_plugins(plugin("random-picker")),
        "schedulingProfiles": [profile("queue-scorer", "max-score-picker")],
    },
    "detector that is not declared, as a filter": {
        **_Q,
        "schedulingProfiles": [profile("queue-scorer", "utilization-detector")],
    },
    "detector that is not declared, beside another, as a filter": {
        **_plugins(plugin("concurrency-detector")),
        "schedulingProfiles": [profile("queue-scorer", "utilization-detector")],
    },
    "detector that is not declared, another one chosen, as a filter": {
        **_plugins(plugin("concurrency-detector")),
        "schedulingProfiles": [profile("queue-scorer", "utilization-detector")],
        "saturationDetector": {"pluginRef": "concurrency-detector"},
    },
    "detector by its type, declared by another name, as a filter": {
        **_plugins(plugin("utilization-detector", "mine")),
        "schedulingProfiles": [profile("queue-scorer", "utilization-detector")],
    },
    "detector by its type, declared by another name": {
        **_plugins(plugin("utilization-detector", "mine")),
        "saturationDetector": {"pluginRef": "utilization-detector"},
    },
    "picker by its type, declared by another name": {
        **_plugins(plugin("max-score-picker", "mine")),
        "schedulingProfiles": [profile("queue-scorer", "max-score-picker")],
    },
    **{
        f"{name} in a profile, not declared": _with(schedulingProfiles=[profile("queue-scorer", name)])
        for name in (
            *("single-profile-handler", "openai-parser", "passthrough-parser", "vllmgrpc-parser"),
            *("metrics-data-source", "core-metrics-extractor", "inflight-load-producer"),
            *("fcfs-ordering-policy", "round-robin-fairness-policy"),
        )
    },
    "plugin twice in a profile": _with(schedulingProfiles=[profile("queue-scorer", ("queue-scorer", 2))]),
    "profile without name": _with(schedulingProfiles=[{"plugins": [{"pluginRef": "queue-scorer"}]}]),
    "two profiles of the same name": _with(schedulingProfiles=[profile("queue-scorer"), profile("queue-scorer")]),
    "profile entry without pluginRef": _with(schedulingProfiles=[{"name": "default", "plugins": [{"weight": 1}]}]),
    "profile without plugins": _with(schedulingProfiles=[{"name": "default", "plugins": []}]),
    "no profiles": _with(schedulingProfiles=[]),
    "no plugins": {},
    "two pickers": simple("queue-scorer", "max-score-picker", "random-picker"),
    "two profiles without handler": _with(
        schedulingProfiles=[profile("queue-scorer", name="a"), profile("queue-scorer", name="b")]
    ),
    "two profile handlers": _plugins(plugin("single-profile-handler"), plugin("header-profile-handler")),
    "single-profile-handler with two profiles": {
        **_plugins(plugin("single-profile-handler")),
        "schedulingProfiles": [profile("queue-scorer", name="a"), profile("queue-scorer", name="b")],
    },
    "data-parallel-profile-handler with two profiles": {
        **_plugins(plugin("data-parallel-profile-handler")),
        "schedulingProfiles": [profile("queue-scorer", name="a"), profile("queue-scorer", name="b")],
    },
    "negative weight": simple(("queue-scorer", -1)),
    "weight zero": simple(("queue-scorer", 0)),
    "weight as text": _with(
        schedulingProfiles=[{"name": "default", "plugins": [{"pluginRef": "queue-scorer", "weight": "heavy"}]}]
    ),
    "fractional weight": simple(("queue-scorer", 0.5)),
    "no scorer in a profile": simple("random-picker"),
    "plugin for another point in a profile": {
        **_plugins(IN_FLIGHT),
        "schedulingProfiles": [profile("queue-scorer", "inflight-load-producer")],
    },
    "parser that is nowhere": _with(requestHandler={"parsers": [{"pluginRef": "nobody"}]}),
    "parsers that are not declared": _with(
        requestHandler={"parsers": [{"pluginRef": "vllmgrpc-parser"}, {"pluginRef": "openai-parser"}]}
    ),
    "parser by its type, declared by another name": {
        **_plugins(plugin("vllmgrpc-parser", "mine")),
        "requestHandler": {"parsers": [{"pluginRef": "vllmgrpc-parser"}]},
    },
    "parser twice": _with(requestHandler={"parsers": [{"pluginRef": "openai-parser"}, {"pluginRef": "openai-parser"}]}),
    "parser that is a scorer": _with(requestHandler={"parsers": [{"pluginRef": "queue-scorer"}]}),
    "one parser, the old way": {**_plugins(plugin("openai-parser")), "parser": {"pluginRef": "openai-parser"}},
    "saturation detector that is nowhere": _with(saturationDetector={"pluginRef": "nobody"}),
    "saturation detector that is a scorer": _with(saturationDetector={"pluginRef": "queue-scorer"}),
    "saturation detector": {
        **_plugins(plugin("utilization-detector")),
        "saturationDetector": {"pluginRef": "utilization-detector"},
    },
    "fairness policy that is nowhere": _with(
        **_FLOW, flowControl={"defaultPriorityBand": {"fairnessPolicyRef": "nobody"}}
    ),
    "ordering policy that is a scorer": _with(
        **_FLOW, flowControl={"defaultPriorityBand": {"orderingPolicyRef": "queue-scorer"}}
    ),
    "usage limit policy that is nowhere": _with(**_FLOW, flowControl={"usageLimitPolicyPluginRef": "nobody"}),
    **{
        f"{name}, not declared{of_gate}": _with(**gate, flowControl={"defaultPriorityBand": {key: name}})
        for key, name in (
            ("fairnessPolicyRef", "round-robin-fairness-policy"),
            ("fairnessPolicyRef", "global-strict-fairness-policy"),
            ("fairnessPolicyRef", "fcfs-ordering-policy"),
            ("orderingPolicyRef", "edf-ordering-policy"),
        )
        for of_gate, gate in (("", _FLOW), (", without the gate", {}))
    },
    "usage limit policy that is not declared": _with(
        **_FLOW, flowControl={"usageLimitPolicyPluginRef": "soft-reflective-ceiling-policy"}
    ),
    "fairness policy by its type, declared by another name": {
        **_plugins(plugin("round-robin-fairness-policy", "mine")),
        **_FLOW,
        "flowControl": {"defaultPriorityBand": {"fairnessPolicyRef": "round-robin-fairness-policy"}},
    },
    "default policy by its type, declared by another name": {
        **_plugins(plugin("fcfs-ordering-policy", "mine")),
        **_FLOW,
        "flowControl": {"defaultPriorityBand": {"orderingPolicyRef": "fcfs-ordering-policy"}},
    },
    "policies that are nowhere, without the gate": _with(
        flowControl={
            "usageLimitPolicyPluginRef": "nobody",
            "priorityBands": [{"fairnessPolicyRef": "nobody", "orderingPolicyRef": "queue-scorer"}],
        }
    ),
    "two bands of one priority, without the gate": _with(
        flowControl={"priorityBands": [{"priority": 1}, {"priority": 1}]}
    ),
    "negative time-out, without the gate": _with(flowControl={"defaultRequestTTL": "-1s"}),
    "two bands of one priority": _with(**_FLOW, flowControl={"priorityBands": [{"priority": 1}, {"priority": 1}]}),
    "band without priority": _with(**_FLOW, flowControl={"priorityBands": [{"maxRequests": 1}]}),
    "two bands without priority": _with(
        **_FLOW, flowControl={"priorityBands": [{"maxRequests": 1}, {"maxRequests": 2}]}
    ),
    "negative time-out": _with(**_FLOW, flowControl={"defaultRequestTTL": "-1s"}),
    "time-out without unit": _with(**_FLOW, flowControl={"defaultRequestTTL": "10"}),
    "flow control": _with(**_FLOW),
    "flowControl without its gate": _with(flowControl={"defaultRequestTTL": "10s"}),
    "polling interval off the tick": {
        **_plugins(plugin("metrics-data-source", interval="75ms")),
    },
    "polling interval on the tick": {**_plugins(plugin("metrics-data-source", interval="100ms"))},
    "negative polling interval": {**_plugins(plugin("metrics-data-source", interval="-1s"))},
    "metrics path that is empty": _plugins(plugin("metrics-data-source", path="")),
    "metrics scheme that does not exist": _plugins(plugin("metrics-data-source", scheme="gopher")),
    "unknown engine": _plugins(plugin("core-metrics-extractor", defaultEngine="steam")),
    "another engine": _plugins(plugin("core-metrics-extractor", defaultEngine="sglang")),
    "label selector with a strange operator": simple(
        "label-selector-filter",
        ("queue-scorer", 1),
        extra=(plugin("label-selector-filter", matchExpressions=[{"key": "a", "operator": "Near", "values": ["b"]}]),),
    ),
    "by-label without label": simple("by-label", extra=(plugin("by-label", validValues=["a"]),)),
    "by-label without values": simple("by-label", extra=(plugin("by-label", label="a"),)),
    "decider that is nowhere": {
        **S4,
        "plugins": [*(p for p in S4["plugins"] if p["type"] != "prefix-based-pd-decider")],
    },
    "disaggregation without decode": {
        "plugins": [plugin("queue-scorer"), plugin("disagg-profile-handler")],
        "schedulingProfiles": [profile("queue-scorer", name="prefill"), profile("queue-scorer", name="encode")],
    },
    "decider by its old and by its new name": {
        **S4,
        "plugins": [
            p
            if p["type"] != "disagg-profile-handler"
            else plugin(
                "disagg-profile-handler",
                deciders={"prefill": "prefix-based-pd-decider"},
                prefillDeciderPluginName="prefix-based-pd-decider",
            )
            for p in S4["plugins"]
        ],
    },
    "match weight above one": simple(
        "prefix-cache-scorer", extra=(plugin("prefix-cache-scorer", matchLengthWeight=1.5),)
    ),
    "prefix producer that is nowhere": simple(
        "prefix-cache-scorer", extra=(plugin("prefix-cache-scorer", prefixMatchInfoProducerName="nobody"),)
    ),
    "affinity threshold above one": simple(
        "prefix-cache-affinity-filter", extra=(plugin("prefix-cache-affinity-filter", affinityThreshold=1.5),)
    ),
    "exploration above one": simple(
        "prefix-cache-affinity-filter", extra=(plugin("prefix-cache-affinity-filter", explorationProbability=2),)
    ),
    "load threshold of zero": simple("load-aware-scorer", extra=(plugin("load-aware-scorer", threshold=0),)),
    "no-hit memory of zero": _plugins(plugin("no-hit-lru-scorer", lruSize=0)),
    "token threshold of zero": _plugins(IN_FLIGHT, plugin("token-load-scorer", queueThresholdTokens=0)),
    "negative idle threshold": _plugins(plugin("active-request-scorer", idleThreshold=-1)),
    "busy score above one": _plugins(plugin("active-request-scorer", maxBusyScore=2)),
    "media cache of zero": _plugins(plugin("mm-embeddings-cache-producer", cacheSizeInMBPerServer=0)),
    "negative latency weight": _plugins(plugin("latency-scorer", ttftWeight=-1)),
    "headroom strategy that does not exist": _plugins(plugin("latency-scorer", headroomSelectionStrategy="some")),
    "port zero for data-parallel ranks": _plugins(plugin("data-parallel-profile-handler", primaryPort=0)),
    "block size of zero": _plugins(plugin("approx-prefix-cache-producer", blockSizeTokens=0)),
    "negative block size": _plugins(plugin("approx-prefix-cache-producer", blockSizeTokens=-1)),
    "negative cache": _plugins(plugin("approx-prefix-cache-producer", lruCapacityPerServer=-1)),
    "utilization above one": _plugins(plugin("utilization-detector", kvCacheUtilThreshold=1.5)),
    "negative queue depth": _plugins(plugin("utilization-detector", queueDepthThreshold=-1)),
    "utilization filter of an unknown metric": simple(
        "utilization-filter", extra=(plugin("utilization-filter", conditions=[{"metric": "mood", "maxValue": 1}]),)
    ),
    "attribute filter without attribute": simple(
        "endpoint-attribute-filter", extra=(plugin("endpoint-attribute-filter"),)
    ),
    "session strategy that does not exist": simple(
        ("session-affinity-scorer", 1), extra=(plugin("session-affinity-scorer", strategy="hope"),)
    ),
    "header-label-affinity without header": simple(("header-label-affinity-scorer", 1)),
    "token producer without a source": _plugins(plugin("token-producer")),
    "token producer with estimates": _plugins(
        plugin("token-producer", estimate={"image": {"dynamic": {"factor": 784}}, "video": {"maxVideoTokens": 9000}})
    ),
    "token producer with an estimate of a kind that does not exist": _plugins(
        plugin("token-producer", estimate={"smell": {"factor": 784}})
    ),
    "token producer with a mode that does not exist": _plugins(
        plugin("token-producer", estimate={"image": {"mode": "guess"}})
    ),
    "token producer with a negative factor": _plugins(
        plugin("token-producer", estimate={"image": {"dynamic": {"factor": -1}}})
    ),
    "burst window of a minute": _plugins(plugin("burst-prefix-cache-producer", windowDurationMs=60000)),
    "discovery without path": _plugins({"type": "file-discovery", "name": "other"}),
    "data source that is a scorer": _with(dataLayer={"sources": [{"pluginRef": "queue-scorer"}]}),
    "data source that is nowhere": _with(dataLayer={"sources": [{"pluginRef": "nobody"}]}),
    "data source twice": {
        **_plugins(SOURCE, plugin("core-metrics-extractor")),
        "dataLayer": {
            "sources": [
                {"pluginRef": "metrics-data-source", "extractors": [{"pluginRef": "core-metrics-extractor"}]},
                {"pluginRef": "metrics-data-source", "extractors": [{"pluginRef": "core-metrics-extractor"}]},
            ]
        },
    },
    "no data source": _with(dataLayer={"injectDefaults": False}),
    "attribute of two metrics": _plugins(
        plugin(
            "core-metrics-extractor",
            engineConfigs=[
                {
                    "name": "steam",
                    "customMetrics": [
                        {"attributeKey": "power", "metricSpec": "watts"},
                        {"attributeKey": "power", "metricSpec": "joules"},
                    ],
                }
            ],
        )
    ),
    "data source without extractor": {
        **_plugins(SOURCE),
        "dataLayer": {"sources": [{"pluginRef": "metrics-data-source"}]},
    },
    "reporter without attributes": _plugins(plugin("request-attribute-reporter")),
}
