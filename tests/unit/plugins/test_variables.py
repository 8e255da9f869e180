"""Environment variables as defaults of parameters: what they set, and that nothing of the table is misspelt."""

from __future__ import annotations

import re

import msgspec
import pytest

from epp.api import ConfigError
from epp.config import Registry, build, load_text
from epp_plugins.registry import BUILTIN
from epp_plugins.scorers.latency_scorer import LatencyScorer
from epp_plugins.variables import VARIABLES, Variable, parameter_defaults
from tests.support.configs import HEAD, make_environment
from tests.support.predictions import ToldPredictions

GOOD = {
    "HEADROOM_SELECTION_STRATEGY": "Composite-Least",
    "POD_SELECTION_MODE": "MAX",
    "PREDICTION_SERVER_URL": "http://a:8001,http://b:8001",
    "TRAINING_SERVER_URL": "http://a:8000",
    "LATENCY_MAX_COALESCED_ROWS": "0",
    "LATENCY_MAX_CONCURRENT_DISPATCHES": "28",
    "LATENCY_MAX_SAMPLE_SIZE": "10000",
}


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
def test_each_sets_parameters_that_there_are(variable: Variable) -> None:
    defaults = parameter_defaults({variable.name: GOOD.get(variable.name, "0.25")})

    assert set(defaults) == {plugin_type for plugin_type, _ in variable.sets}
    for plugin_type, values in defaults.items():
        params = msgspec.convert(values, BUILTIN[plugin_type].Params)
        given = {
            f.encode_name: getattr(params, f.name) for f in msgspec.structs.fields(params) if f.encode_name in values
        }
        assert given == values


def test_the_configuration_goes_before_the_environment() -> None:
    defaults = parameter_defaults({"HEADROOM_TTFT_WEIGHT": "0.5", "HEADROOM_TPOT_WEIGHT": "0.4"})
    registry = Registry(BUILTIN | {ToldPredictions.type: ToldPredictions}, defaults=defaults)
    plugins = "plugins: [{type: latency-scorer, parameters: {tpotWeight: 3}}, {type: predicted-latency-producer}]\n"

    scorer = build(load_text(HEAD + plugins), registry, make_environment()).plugins["latency-scorer"]

    assert isinstance(scorer, LatencyScorer)
    assert (scorer.params.ttft_weight, scorer.params.tpot_weight) == (0.5, 3)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HEADROOM_TTFT_WEIGHT", "much", "a number from 0"),
        ("COMPOSITE_KV_WEIGHT", "-1", "a number from 0"),
        ("COMPOSITE_KV_WEIGHT", "inf", "a number from 0"),
        ("NEG_HEADROOM_EPSILON", "1.5", "a number from 0 to 1"),
        ("AFFINITY_GATE_TAU", "nan", "a number from 0 to 1"),
        ("SLO_BUFFER_FACTOR", "0", "a number above 0"),
        ("POD_SELECTION_MODE", "random", "one of linear, max"),
        ("PREDICTION_SERVER_URL", "localhost:8001", "http://HOST:PORT, several with commas between them"),
        ("LATENCY_MAX_SAMPLE_SIZE", "0", "a whole number from 1"),
        ("LATENCY_MAX_COALESCED_ROWS", "1.5", "a whole number from 0"),
        ("HEADROOM_SELECTION_STRATEGY", "x", "one of least, most, composite-least, composite-most, composite-only"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_by_the_variables_name(name: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"environment variable {name}: expected {expected}, got '{text}'")):
        parameter_defaults({name: text})


def test_empty_ones_and_others_set_nothing() -> None:
    assert parameter_defaults({"HEADROOM_TTFT_WEIGHT": " ", "PATH": "/bin"}) == {}
