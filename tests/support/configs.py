"""Loads and builds configurations in tests: small plugin classes, a registry of them, an environment, a report as lines."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from epp.api import (
    IN_FLIGHT_LOAD,
    PREFIX_MATCH,
    Candidates,
    ConfigError,
    DataProducer,
    Filter,
    Fleet,
    Floats,
    Handle,
    Mask,
    Parser,
    Picker,
    Plugin,
    ProfileHandler,
    ProfileResult,
    Request,
    SaturationDetector,
    SchedulingResult,
    Scorer,
    data_key,
)
from epp.config import Environment, InvalidConfig, Pipeline, Registry, Resolved, build, load_text, resolved_of
from tests.support.plugins import Clock, NoMetrics

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    metric: Literal["queue", "usage"]
    max_value: float = 1.0


class KeepAll(Filter):
    type = "keep-all"

    class Params(msgspec.Struct, frozen=True, rename="camel"):
        rules: tuple[Rule, ...] = ()
        match_labels: dict[str, str] = {}
        limit: int | None = None

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        for i, rule in enumerate(params.rules):
            if rule.max_value > 100:
                raise ConfigError(f"rules[{i}].maxValue: must be at most 100")

    def keep(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        return [True] * len(candidates)


class FlatScorer(Scorer):
    type = "queue-scorer"

    def score(self, request: Request, candidates: Candidates) -> Floats | Sequence[float]:
        return [0.5] * len(candidates)


class KvScorer(FlatScorer):
    type = "kv-cache-utilization-scorer"


class FilteringScorer(FlatScorer, KeepAll):
    type = "filtering-scorer"


class PrefixScorer(FlatScorer):
    type = "prefix-cache-scorer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        producer_name: str = ""

    def consumes(self) -> Sequence[str]:
        return (data_key(PREFIX_MATCH, self.params.producer_name),)


class ExperimentalScorer(FlatScorer):
    type = "experimental-scorer"
    experimental: ClassVar[bool] = True


class FailingScorer(FlatScorer):
    type = "failing-scorer"

    def __init__(self, params: msgspec.Struct, handle: Handle) -> None:
        raise KeyError("no such thing")


class FirstPicker(Picker):
    type = "max-score-picker"

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        return (0,)


class OtherPicker(FirstPicker):
    type = "random-picker"


class OneProfileHandler(ProfileHandler):
    type = "single-profile-handler"

    def check_profiles(self, names: Sequence[str]) -> None:
        if len(names) != 1:
            raise ConfigError(f"expected one profile, got {len(names)}")

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        return ()

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        return SchedulingResult(results, next(iter(results)))


class AnyProfilesHandler(OneProfileHandler):
    type = "any-profiles-handler"

    def check_profiles(self, names: Sequence[str]) -> None:
        return None


class PathParser(Parser):
    type = "openai-parser"

    def paths(self) -> Sequence[str]:
        return ("completions",)


class RestParser(Parser):
    type = "passthrough-parser"
    reads_body = False


class Detector(SaturationDetector):
    type = "utilization-detector"

    def saturation(self, candidates: Candidates) -> float:
        return 0.0


class Producer(DataProducer):
    """Publishes and reads the keys of its parameters."""

    type = "producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        produces: tuple[str, ...] = ()
        consumes: tuple[str, ...] = ()
        may: tuple[str, ...] = ()

    def produces(self) -> Sequence[str]:
        return tuple(self.params.produces)

    def consumes(self) -> Sequence[str]:
        return tuple(self.params.consumes)

    def consumes_if_published(self) -> Sequence[str]:
        return tuple(self.params.may)

    def produce(self, request: Request, candidates: Candidates) -> None:
        return None


class PrefixProducer(Producer):
    type = "approx-prefix-cache-producer"

    def produces(self) -> Sequence[str]:
        return (data_key(PREFIX_MATCH, self.name),)


class InFlightProducer(Producer):
    type = "inflight-load-producer"

    def produces(self) -> Sequence[str]:
        return (data_key(IN_FLIGHT_LOAD, self.name),)

    def consumes(self) -> Sequence[str]:
        return (data_key(PREFIX_MATCH),)


class LoadScorer(FlatScorer):
    type = "token-load-scorer"

    def consumes(self) -> Sequence[str]:
        return (data_key(IN_FLIGHT_LOAD),)


class ReadingDetector(Detector):
    type = "reading-detector"

    def consumes(self) -> Sequence[str]:
        return (data_key(PREFIX_MATCH),)


class MetricsSource(Plugin):
    type = "metrics-data-source"


class MetricsExtractor(Plugin):
    type = "core-metrics-extractor"


class Discovery(Plugin):
    type = "file-discovery"


FAKES: dict[str, type[Plugin]] = {
    cls.type: cls
    for cls in (
        KeepAll,
        FlatScorer,
        KvScorer,
        FilteringScorer,
        PrefixScorer,
        ExperimentalScorer,
        FailingScorer,
        FirstPicker,
        OtherPicker,
        OneProfileHandler,
        AnyProfilesHandler,
        PathParser,
        RestParser,
        Detector,
        ReadingDetector,
        Producer,
        PrefixProducer,
        InFlightProducer,
        LoadScorer,
        MetricsSource,
        MetricsExtractor,
        Discovery,
    )
}


def make_environment(*, allow_experimental: bool = False) -> Environment:
    return Environment(
        fleet=Fleet(),
        clock=Clock(),
        random=random.Random(0),
        log=logging.getLogger("test"),
        metrics=NoMetrics(),
        allow_experimental=allow_experimental,
    )


def fake_registry() -> Registry:
    return Registry(
        FAKES,
        aliases={"old-queue-scorer": "queue-scorer"},
        replaced={"random-picker": ("max-score-picker",), "gone-scorer": ("queue-scorer",)},
    )


def build_fake(
    body: str, *, head: str = HEAD, reuse: Pipeline | None = None, allow_experimental: bool = False
) -> Pipeline:
    """The pipeline of `body` (without apiVersion and kind) over the fake plugins."""
    environment = make_environment(allow_experimental=allow_experimental)
    return build(load_text(head + body, "c.yaml"), fake_registry(), environment, reuse=reuse)


def resolve_fake(body: str) -> Resolved:
    return resolved_of(build_fake(body))


def report(body: str, *, head: str = HEAD, allow_experimental: bool = False) -> list[str]:
    """What is said about `body`, warnings too, without the file's name; lines count from `head`'s first."""
    try:
        pipeline = build_fake(body, head=head, allow_experimental=allow_experimental)
    except InvalidConfig as invalid:
        return [str(p).removeprefix("c.yaml:").lstrip() for p in invalid.problems]
    return [str(p).removeprefix("c.yaml:").lstrip() for p in resolved_of(pipeline).warnings]
