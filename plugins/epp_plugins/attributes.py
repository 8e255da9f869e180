"""Numbers among an endpoint's attributes: custom metrics and what other data sources put there."""

from __future__ import annotations

import numpy as np

from epp.api import Candidates, ConfigError, Floats

CORE_EXTRACTOR = "core-metrics-extractor"


def attribute_key(attribute: str, producer: str | None, *, parameter: str) -> str:
    """Under which name the attribute is kept.

    Those of core-metrics-extractor (`producer` None) and of no certain producer (empty) have their own names, those of another
    producer `<attribute>/<producer>`. ConfigError names `parameter`.
    """
    if not attribute:
        raise ConfigError(f"{parameter}: must name an attribute")
    if producer is None and "/" in attribute:
        name, _, by = attribute.rpartition("/")
        raise ConfigError(f'{parameter}: write the producer apart, as {parameter}: "{name}" and producer: "{by}"')
    return attribute if producer in (None, "", CORE_EXTRACTOR) else f"{attribute}/{producer}"


def attribute_values(candidates: Candidates, key: str) -> Floats:
    """The attribute of each candidate, same order; NaN where it is missing or no number."""
    values: Floats = np.full(len(candidates), np.nan)
    for i, endpoint in enumerate(candidates):
        value = endpoint.attributes.get(key)
        if isinstance(value, (int, float)):
            values[i] = value
    return values
