"""What both EPPs are asked, configuration by configuration: random fleets and requests from a seed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

import msgspec

from tests.differential.agreement import SESSION_TOKEN
from tests.differential.configurations import IN_FLIGHT, S1, S4, S5, SAMPLES, Config, plugin, profile, simple
from tests.differential.fleet import Load
from tests.differential.talk import Ask, completion

Labels = Sequence[Mapping[str, str]]
BLOCK_BYTES: Final = 256  # 64 tokens, the Go EPP's smallest block
_ADAPTERS: Final = ("a", "b", "c", "d")


def _loads(rng: Random, count: int) -> list[Load]:
    """No two with equal queues, so that rules which compare them decide."""
    queues = rng.sample(range(400), count)
    return [Load(queued=q, running=rng.randrange(200), kv=round(rng.random(), 6)) for q in queues]


def _few_values(rng: Random, count: int) -> list[Load]:
    """Many equal ones."""
    return [
        Load(queued=rng.randrange(3), running=rng.randrange(3), kv=rng.choice((0.0, 0.5, 1.0))) for _ in range(count)
    ]


def _light(rng: Random, count: int) -> list[Load]:
    """Nobody is saturated, so that flow control lets everything pass."""
    return [
        Load(queued=rng.randrange(4), running=rng.randrange(9), kv=round(rng.random() / 2, 6)) for _ in range(count)
    ]


def _adapters(rng: Random, count: int) -> list[Load]:
    def one() -> Load:
        names = rng.sample(_ADAPTERS, rng.randrange(4))
        cut = rng.randrange(len(names) + 1)
        return Load(queued=rng.randrange(50), lora=names[:cut], lora_waiting=names[cut:], lora_max=rng.randrange(1, 4))

    return [one() for _ in range(count)]


def _short(rng: Random) -> Ask:
    return Ask(body=completion(f"question {rng.randrange(10**9)}"))


def _for_adapter(rng: Random) -> Ask:
    return Ask(body=completion("hi", model=rng.choice((*_ADAPTERS, "base"))))


def prompt(rng: Random) -> str:
    """Whole blocks, the first of them shared with many others."""
    shared = rng.randrange(4)
    blocks = [f"{shared}-{i}-".ljust(BLOCK_BYTES, "x") for i in range(rng.randrange(1, 9))]
    own = [f"{rng.random()}".ljust(BLOCK_BYTES, "y") for _ in range(rng.randrange(3))]
    return "".join(blocks + own)


def _shared_prefix(rng: Random) -> Ask:
    return Ask(body=completion(prompt(rng)))


def _unseen(rng: Random) -> Ask:
    """Whole blocks that nobody has cached: the Go EPP forgets at times to look for them before it counts a prompt's tokens."""
    return Ask(body=completion(f"{rng.random()} ".ljust(BLOCK_BYTES * rng.randrange(1, 9), "u")))


def _any_length(rng: Random) -> Ask:
    return Ask(body=completion("word " * rng.choice((1, 30, 400, 3000)) + str(rng.random())))


def _media(rng: Random) -> Ask:
    """Text that others begin with, or a picture behind text that nobody else has."""
    seen = rng.random() < 0.5
    text = prompt(rng) if seen else f"{rng.random()}".ljust(BLOCK_BYTES * rng.randrange(1, 5))
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if not seen:
        parts.append({"type": "image_url", "image_url": {"url": f"http://pictures/{rng.randrange(5)}.png"}})
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    return Ask(path="/v1/chat/completions", body=json.dumps(body).encode())


def _opaque(rng: Random) -> Ask:
    return Ask(path=f"/x/{rng.randrange(9)}", body=rng.randbytes(rng.randrange(1, 300)))


def _header(name: str, *values: str) -> Callable[[Random], Ask]:
    def make(rng: Random) -> Ask:
        value = rng.choice(values)
        return Ask(body=completion(str(rng.random())), headers={name: value} if value else {})

    return make


def _session(rng: Random) -> Ask:
    """The token of an endpoint, of one that is not there, or of nobody."""
    token = rng.choice(["default/e0", "default/e2", "default/e5", "default/e99", "?"])
    value = rng.choice([b64encode(token.encode()).decode(), "%", ""])
    return Ask(body=completion("hi"), headers={SESSION_TOKEN: value} if value else {})


def _in_time(rng: Random) -> Ask:
    """With SLOs, absurd ones and none."""
    values = {"x-llm-d-slo-ttft-ms": rng.choice(("1", "2000", "")), "x-slo-tpot-ms": rng.choice(("1", "50", ""))}
    return Ask(body=completion(prompt(rng)), headers={n: v for n, v in values.items() if v})


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration over one fleet. Each of `states` loads is asked `requests` times."""

    config: Config
    labels: Labels = ({},) * 6
    loads: Callable[[Random, int], list[Load]] = _loads
    ask: Callable[[Random], Ask] = _short
    states: int = 11
    requests: int = 3
    holds: int | None = None
    """This many requests at least on every endpoint, told where to go by the subset hint, are in flight all the while."""
    warms: bool = False
    """Every endpoint gets a request first, told where to go likewise."""
    without: tuple[str, ...] = ()
    """Fields of outcomes that are known to differ; docs/compatibility.md says why."""


def _roles(*roles: str) -> Labels:
    return tuple({"llm-d.ai/role": role} if role else {} for role in roles)


def _untied(config: Config) -> Config:
    """With weights of 1 made odd: a whole one would tie a prefix half matched with a queue that is the shortest."""
    profiles = [
        p | {"plugins": [e | {"weight": 0.973} if e.get("weight") == 1 else e for e in p["plugins"]]}
        for p in config["schedulingProfiles"]
    ]
    return config | {"schedulingProfiles": profiles}


_ZONES: Final = tuple({"zone": z} if z else {} for z in ("a", "a", "b", "b", "c", ""))
_STICKY: Final = simple(
    "prefix-cache-affinity-filter",
    ("queue-scorer", 1),
    "max-score-picker",
    extra=(IN_FLIGHT, plugin("prefix-cache-affinity-filter", affinityThreshold=0.8)),
)

_POWERED: Final = plugin(
    "core-metrics-extractor",
    engineConfigs=[
        {
            "name": "vllm",
            "queuedRequestsSpec": "vllm:num_requests_waiting",
            "customMetrics": [{"attributeKey": "power", "metricSpec": "vllm:num_requests_running"}],
        }
    ],
)


def _by_attribute(scorer: Config, operator: str, value: float) -> Config:
    """S8, but that the attribute is a number of the metrics page: there is no DCGM exporter."""
    return simple(
        "endpoint-attribute-filter",
        ("endpoint-attribute-scorer", 2),
        ("queue-scorer", 0.01),
        extra=(
            _POWERED,
            plugin(
                "endpoint-attribute-filter",
                attribute="power",
                onMissing="Pass",
                fallbackOnEmpty=True,
                algorithm={"type": "threshold", "threshold": {"operator": operator, "value": value}},
            ),
            plugin("endpoint-attribute-scorer", attributeKey="power", algorithm=scorer),
        ),
    )


_PREDICTED: Final = (
    plugin("predicted-latency-producer"),
    plugin("latency-slo-admitter"),
    plugin("prefix-cache-affinity-filter", ttftSource="latencyPredictor", affinityThreshold=0.8),
)

SCENARIOS: Final[dict[str, Scenario]] = {
    "S1": Scenario(config=S1, ask=_shared_prefix, requests=6),
    "S1, many ties": Scenario(config=S1, loads=_few_values),
    "queue": Scenario(config=simple(("queue-scorer", 1))),
    "queue, many ties": Scenario(config=simple(("queue-scorer", 1)), loads=_few_values),
    "kv": Scenario(config=simple(("kv-cache-utilization-scorer", 1))),
    "running": Scenario(config=simple(("running-requests-size-scorer", 1)), loads=_few_values),
    "load-aware": Scenario(config=simple(("load-aware-scorer", 1))),
    "load-aware with a threshold": Scenario(
        config=simple(("load-aware-scorer", 3), extra=(plugin("load-aware-scorer", threshold=300),))
    ),
    "queue and running against kv": Scenario(
        config=simple(
            ("queue-scorer", 0.3), ("running-requests-size-scorer", 1.7), ("kv-cache-utilization-scorer", 2.5)
        )
    ),
    "lora": Scenario(
        config=simple(("lora-affinity-scorer", 4), ("queue-scorer", 1)), loads=_adapters, ask=_for_adapter, requests=5
    ),
    "active requests": Scenario(config=simple(("active-request-scorer", 1), extra=(IN_FLIGHT,)), holds=0, requests=4),
    "active requests, some of them idle": Scenario(
        config=simple(
            ("active-request-scorer", 1),
            extra=(IN_FLIGHT, plugin("active-request-scorer", idleThreshold=1, maxBusyScore=0.5)),
        ),
        holds=0,
    ),
    "tokens in flight": Scenario(
        config=simple(
            ("token-load-scorer", 1), extra=(IN_FLIGHT, plugin("token-load-scorer", queueThresholdTokens=5000))
        ),
        holds=1,
        ask=_unseen,
    ),
    "sticky": Scenario(config=_STICKY, holds=1, ask=_shared_prefix, requests=5),
    "prefix alone": Scenario(config=simple(("prefix-cache-scorer", 1), ("queue-scorer", 0.01)), ask=_shared_prefix),
    "prefix by length": Scenario(
        config=simple(
            ("prefix-cache-scorer", 1),
            ("queue-scorer", 0.01),
            extra=(plugin("prefix-cache-scorer", matchLengthWeight=0.6, matchLengthScaleTokens=512),),
        ),
        ask=_shared_prefix,
    ),
    "latency, nothing predicted": Scenario(
        config=simple(
            "prefix-cache-affinity-filter",
            "slo-headroom-tier-filter",
            ("latency-scorer", 1),
            "max-score-picker",
            extra=_PREDICTED,
        ),
        ask=_in_time,
    ),
    "latency, nothing predicted, by weights": Scenario(
        config=simple(
            ("latency-scorer", 1.3),
            ("queue-scorer", 0.1),
            "max-score-picker",
            extra=(
                plugin("predicted-latency-producer"),
                plugin("latency-scorer", compositeKVWeight=2, compositeQueueWeight=0.5, compositePrefixWeight=1.5),
            ),
        ),
        ask=_shared_prefix,
        states=6,
    ),
    "no hit": Scenario(config=simple(("no-hit-lru-scorer", 1)), warms=True),
    "S7": Scenario(config=SAMPLES["S7"], warms=True, ask=_shared_prefix),
    "S3": Scenario(config=SAMPLES["S3"], ask=_opaque, holds=0),
    "S4": Scenario(
        config=_untied(S4),
        labels=_roles("prefill", "prefill", "prefill", "decode", "decode", "both", ""),
        ask=_shared_prefix,
    ),
    "S5": Scenario(config=S5, labels=_roles("encode", "prefill", "prefill", "decode", "decode", ""), ask=_media),
    # S6, S9 and S13 name a tokenizer that is not there: prompts without tokens.
    "S6": Scenario(config=SAMPLES["S6"], ask=_unseen, warms=True),
    "S9": Scenario(config=SAMPLES["S9"], ask=_unseen, states=4),
    "S13": Scenario(config=SAMPLES["S13"], ask=_unseen),
    "media": Scenario(
        config=simple(
            ("mm-embeddings-cache-scorer", 4), ("queue-scorer", 1), extra=(plugin("mm-embeddings-cache-producer"),)
        ),
        ask=_media,
        requests=6,
    ),
    "S8, a number of the metrics page": Scenario(
        config=_by_attribute(
            {"type": "linear_lower_is_better", "normalization": {"fixedRange": {"min": 20, "max": 150}}},
            "LessThanOrEqual",
            90,
        ),
    ),
    "attribute, by the range of the candidates": Scenario(
        config=_by_attribute(
            {"type": "linear_higher_is_better", "normalization": {"adaptiveRange": {}}}, "NotEqual", 1
        ),
        loads=_few_values,
    ),
    "label selector": Scenario(
        config=simple(
            "label-selector-filter",
            ("queue-scorer", 1),
            extra=(
                plugin(
                    "label-selector-filter", matchExpressions=[{"key": "zone", "operator": "In", "values": ["a", "b"]}]
                ),
            ),
        ),
        labels=_ZONES,
        states=4,
    ),
    "label selector that fits nobody": Scenario(
        config=simple(
            "label-selector-filter",
            ("queue-scorer", 1),
            extra=(plugin("label-selector-filter", matchLabels={"zone": "z"}),),
        ),
        labels=_ZONES,
        states=1,
        without=("immediate",),
    ),
    "labels": Scenario(
        config=simple(
            "by-label",
            ("queue-scorer", 1),
            extra=(plugin("by-label", label="zone", validValues=["c", "b"], allowsNoLabel=True),),
        ),
        labels=_ZONES,
        states=4,
    ),
    "labels by selector": Scenario(
        config=simple(
            "by-label-selector", ("queue-scorer", 1), extra=(plugin("by-label-selector", matchLabels={"zone": "a"}),)
        ),
        labels=_ZONES,
        states=4,
    ),
    "header and label": Scenario(
        config=simple(
            ("header-label-affinity-scorer", 2),
            ("queue-scorer", 1),
            extra=(plugin("header-label-affinity-scorer", headerName="X-Zone", labelKey="zone"),),
        ),
        labels=_ZONES,
        ask=_header("x-zone", "a", "b", "c", "z", ""),
        states=4,
        requests=5,
    ),
    "length of the context": Scenario(
        config=simple(("context-length-aware", 1), ("queue-scorer", 0.001)),
        labels=tuple(
            {"llm-d.ai/context-length-range": r} if r else {}
            for r in ("0-100", "100-2000", "0-8000", "2000-9000", "", "x")
        ),
        ask=_any_length,
        states=4,
        requests=5,
    ),
    "length of the context as a filter": Scenario(
        config=simple(
            "context-length-aware",
            ("queue-scorer", 1),
            extra=(plugin("context-length-aware", enableFiltering=True),),
        ),
        labels=tuple({"llm-d.ai/context-length-range": r} for r in ("0-100", "100-2000", "0-8000", "2000-9000", "0-9")),
        ask=_any_length,
        states=4,
        requests=5,
    ),
    "utilization": Scenario(
        config=simple(
            "utilization-filter",
            ("kv-cache-utilization-scorer", 1),
            extra=(
                plugin(
                    "utilization-filter",
                    conditions=[
                        {"metric": "waiting-queue", "maxValue": 250},
                        {"metric": "kv-cache-utilization", "maxValue": 0.7},
                    ],
                ),
            ),
        ),
    ),
    "utilization with a way out": Scenario(
        config=simple(
            "utilization-filter",
            ("kv-cache-utilization-scorer", 1),
            extra=(
                plugin(
                    "utilization-filter",
                    conditions=[{"metric": "running-requests", "maxValue": 20}],
                    fallbackOnEmpty=True,
                ),
            ),
        ),
        requests=2,
    ),
    "profile by header": Scenario(
        config={
            "plugins": [
                plugin("header-profile-handler"),
                plugin("queue-scorer"),
                plugin("kv-cache-utilization-scorer"),
            ],
            "schedulingProfiles": [
                profile(("queue-scorer", 1), name="decode"),
                profile(("kv-cache-utilization-scorer", 1), name="prefill"),
            ],
        },
        ask=_header("epp-profile", "decode", "prefill", ""),
        states=4,
        requests=5,
    ),
    "S14": Scenario(config=SAMPLES["S14"], states=4, without=("scores",)),
    "conformance filter": Scenario(
        config=simple("header-based-testing-filter", ("queue-scorer", 1)),
        ask=_header("test-epp-endpoint-selection", "127.0.7.2", "127.0.7.3,127.0.7.1", "127.0.7.9", ""),
        states=4,
        requests=5,
        without=("immediate",),
    ),
    "several endpoints": Scenario(
        config=simple(
            ("queue-scorer", 1), "max-score-picker", extra=(plugin("max-score-picker", maxNumOfEndpoints=3),)
        ),
        states=4,
    ),
    "session by token": Scenario(
        config=simple(("session-affinity-scorer", 1), ("queue-scorer", 0.7)), ask=_session, states=4, requests=5
    ),
    "session by token as a filter": Scenario(
        config=simple("session-affinity-filter", ("queue-scorer", 1)), ask=_session, states=4, requests=5
    ),
    "session by id": Scenario(
        config=simple(
            "session-affinity-filter",
            ("queue-scorer", 1),
            extra=(plugin("session-affinity-filter", strategy="session_id"),),
        ),
        ask=_header("x-session-id", "a", "b", "c", ""),
        states=4,
        requests=5,
    ),
    "S10": Scenario(config=SAMPLES["S10"], loads=_light, states=2),
    "S11": Scenario(config=SAMPLES["S11"], loads=_light, states=2),
}
