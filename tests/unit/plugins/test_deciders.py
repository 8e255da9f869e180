from __future__ import annotations

import numpy as np
import pytest

from epp.api import PREFIX_MATCH, TOKENIZED_PROMPT, Medium, PrefixMatch, TokenizedPrompt, data_key
from epp_plugins.deciders.always_disagg_multimodal_decider import AlwaysDisaggMultimodalDecider
from epp_plugins.deciders.always_disagg_pd_decider import AlwaysDisaggPdDecider
from epp_plugins.deciders.prefix_based_pd_decider import PrefixBasedPdDecider
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("tokens", "cached_blocks", "parameters", "answer"),
    [
        (100, 0, {"nonCachedTokens": 100}, True),
        (99, 0, {"nonCachedTokens": 100}, False),
        # Of 1000 tokens 14 blocks of 64 are 896.
        (1000, 14, {"nonCachedTokens": 104}, True),
        (1000, 14, {"nonCachedTokens": 105}, False),
        (1000, 0, {"nonCachedTokens": 10, "promptTokens": 1001}, False),
        (1000, 0, {"nonCachedTokens": 10, "promptTokens": 1000}, True),
        (1000, 0, {"nonCachedTokens": 0}, False),
        (1000, 0, {}, False),
        (0, 0, {"nonCachedTokens": 1}, False),
    ],
)
def test_enough_uncached_tokens_are_prefilled_elsewhere(
    tokens: int, cached_blocks: int, parameters: dict[str, object], answer: bool
) -> None:
    fleet = make_fleet(2)
    request = make_request(b"x" * 4 * tokens)
    matched = np.zeros(fleet.capacity)
    matched[1] = cached_blocks
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(matched, 15, 64)

    assert make_plugin(PrefixBasedPdDecider, fleet, **parameters).disaggregate(request, fleet.endpoints[1]) is answer


def test_nothing_is_decided_without_prefix_data_or_without_an_endpoint() -> None:
    fleet = make_fleet(1)
    decider = make_plugin(PrefixBasedPdDecider, fleet, nonCachedTokens=1)
    request = make_request(b"x" * 400)

    assert not decider.disaggregate(request, fleet.endpoints[0])
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.zeros(fleet.capacity), 1, 64)
    assert not decider.disaggregate(request, None)
    assert decider.disaggregate(request, fleet.endpoints[0])


def test_another_prefix_producer_can_be_named() -> None:
    fleet = make_fleet(1)
    decider = make_plugin(PrefixBasedPdDecider, fleet, nonCachedTokens=50, prefixMatchInfoProducerName="precise")
    request = make_request(b"x" * 400)
    request.data[data_key(PREFIX_MATCH, "precise")] = PrefixMatch(np.ones(fleet.capacity), 1, 64)

    assert decider.consumes() == ("PrefixCacheMatchInfo/precise",)
    assert not decider.disaggregate(request, fleet.endpoints[0])


def test_a_decider_that_never_says_yes_needs_no_data() -> None:
    assert make_plugin(PrefixBasedPdDecider).consumes() == ()


def test_always_is_always() -> None:
    assert make_plugin(AlwaysDisaggPdDecider).disaggregate(make_request(), None)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [(None, False), (TokenizedPrompt(()), False), (TokenizedPrompt((), (Medium(b"hash"),)), True)],
)
def test_media_are_encoded_elsewhere(prompt: TokenizedPrompt | None, answer: bool) -> None:
    request = make_request()
    if prompt is not None:
        request.data[data_key(TOKENIZED_PROMPT)] = prompt

    assert make_plugin(AlwaysDisaggMultimodalDecider).disaggregate(request, None) is answer


def test_a_block_at_a_slower_tier_is_cached_like_any_other() -> None:
    fleet = make_fleet(1)
    request = make_request(b"x" * 4 * 640)
    held, weighted = np.zeros(fleet.capacity), np.zeros(fleet.capacity)
    held[0], weighted[0] = 10, 8
    request.data[data_key(PREFIX_MATCH)] = PrefixMatch(weighted, 10, 64, cached_blocks=held)

    assert not make_plugin(PrefixBasedPdDecider, fleet, nonCachedTokens=1).disaggregate(request, fleet.endpoints[0])
