"""What a plugin class can be used as, in the words of error messages, and when it reads and publishes data."""

from __future__ import annotations

from typing import Final

from epp.api import (
    Admitter,
    DataProducer,
    DataSource,
    Decider,
    EndpointListener,
    Extractor,
    Filter,
    ObjectListener,
    ObjectSource,
    Parser,
    Picker,
    Plugin,
    PreRequest,
    ProfileHandler,
    RequestHeaderProcessor,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    SaturationDetector,
    Scorer,
    Screener,
)

# Types of the data layer whose work is done by the service's own rooms, and those that are told of endpoints.
METRICS_SOURCE: Final = "metrics-data-source"
ENDPOINT_NOTIFICATIONS: Final = "endpoint-notification-source"
METRICS_EXTRACTOR: Final = "core-metrics-extractor"
DATA_SOURCES: Final = frozenset({METRICS_SOURCE, ENDPOINT_NOTIFICATIONS})
EXTRACTORS: Final = frozenset({METRICS_EXTRACTOR, "topology-extractor"})
DISCOVERIES: Final = frozenset({"file-discovery"})

_WORDS: Final[tuple[tuple[type[Plugin], str], ...]] = (
    (ProfileHandler, "profile handler"),
    (Decider, "decider"),
    (Filter, "filter"),
    (Scorer, "scorer"),
    (Picker, "picker"),
    (Parser, "parser"),
    (SaturationDetector, "saturation detector"),
    (DataProducer, "data producer"),
    (Admitter, "admitter"),
    (Screener, "screener"),
    (RequestHeaderProcessor, "request header processor"),
    (PreRequest, "pre-request hook"),
    (ResponseReceived, "response hook"),
    (ResponseStreaming, "response hook"),
    (ResponseEnding, "response hook"),
    (ResponseComplete, "response hook"),
    (DataSource, "data source"),
    (ObjectSource, "data source"),
    (Extractor, "extractor"),
    (ObjectListener, "extractor"),
)

# The order in which the extension points of one request are called.
_STEPS: Final[tuple[type[Plugin], ...]] = (
    RequestHeaderProcessor,
    SaturationDetector,
    Screener,
    DataProducer,
    Admitter,
    ProfileHandler,
    Decider,
    Filter,
    Scorer,
    Picker,
    PreRequest,
    ResponseReceived,
    ResponseStreaming,
    ResponseEnding,
    ResponseComplete,
)


def words_for(cls: type[Plugin], type_name: str) -> str:
    """`a scorer`, `a filter and saturation detector`."""
    words = list(dict.fromkeys(word for point, word in _WORDS if issubclass(cls, point)))
    if not words:
        for types, word in ((DATA_SOURCES, "data source"), (EXTRACTORS, "extractor"), (DISCOVERIES, "discovery")):
            if type_name in types:
                words.append(word)
    text = " and ".join(words) or "plugin of another kind"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def is_data_source(cls: type[Plugin], type_name: str) -> bool:
    return issubclass(cls, (DataSource, ObjectSource)) or type_name in DATA_SOURCES


def can_extract(cls: type[Plugin], type_name: str, *, source: type[Plugin], source_type: str) -> bool:
    """Plugins of `type_name` can be told what a source of `source_type` has to say."""
    if issubclass(source, ObjectSource):
        return issubclass(cls, ObjectListener)
    if source_type == ENDPOINT_NOTIFICATIONS:
        return issubclass(cls, EndpointListener)
    return issubclass(cls, Extractor) or (type_name == METRICS_EXTRACTOR and source_type == METRICS_SOURCE)


def publishes_at(cls: type[Plugin]) -> int:
    """The step at which a plugin's data are there: that of its data production, else the first that it takes part in."""
    steps = [_STEPS.index(DataProducer)] if issubclass(cls, DataProducer) else _steps_of(cls)
    return min(steps, default=0)


def reads_at(cls: type[Plugin]) -> int:
    """The last step that a plugin takes part in: a plugin with several roles may read its data in the last of them."""
    return max(_steps_of(cls), default=len(_STEPS))


def chooses(cls: type[Plugin]) -> bool:
    """The class takes part in choosing an endpoint, whatever else it does."""
    return issubclass(cls, (Filter, Scorer, Picker))


def only_in_profiles(cls: type[Plugin]) -> bool:
    """The class does nothing unless a profile lists it."""
    return fills_only(cls, Filter, Scorer, Picker)


def fills_only(cls: type[Plugin], *points: type[Plugin]) -> bool:
    """The class takes part in a request at some of `points` and nowhere else."""
    steps = {point for point in _STEPS if issubclass(cls, point)}
    return bool(steps) and steps <= set(points)


def _steps_of(cls: type[Plugin]) -> list[int]:
    return [i for i, point in enumerate(_STEPS) if issubclass(cls, point)]
