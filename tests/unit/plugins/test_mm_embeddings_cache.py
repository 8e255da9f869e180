"""The producer and the scorer of encoded media."""

from __future__ import annotations

import msgspec
import pytest

from epp.api import ENCODER_MATCH, TOKENIZED_PROMPT, EncoderMatch, Fleet, Medium, Request, TokenizedPrompt, data_key
from epp_plugins.producers.mm_embeddings_cache_producer import MmEmbeddingsCacheProducer
from epp_plugins.scorers.mm_embeddings_cache_scorer import MmEmbeddingsCacheScorer
from tests.support.plugins import make_fleet, make_handle, make_plugin
from tests.support.recording import make_recorder, value
from tests.support.scheduling import make_request, picked


def with_media(*media: Medium) -> Request:
    request = make_request()
    request.data[data_key(TOKENIZED_PROMPT)] = TokenizedPrompt((), media)
    return request


def image(name: str, tokens: int = 1) -> Medium:
    return Medium(name.encode(), tokens)


def scores(producer: MmEmbeddingsCacheProducer, fleet: Fleet, *media: Medium) -> list[float]:
    request = with_media(*media)
    producer.produce(request, fleet.candidates())
    return list(make_plugin(MmEmbeddingsCacheScorer, fleet).score(request, fleet.candidates()))


def send(producer: MmEmbeddingsCacheProducer, fleet: Fleet, row: int, *media: Medium, **others: int | None) -> None:
    request = with_media(*media)
    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, row, **others))


def test_endpoints_score_the_share_of_the_media_that_they_got_before() -> None:
    fleet = make_fleet(3)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet)
    send(producer, fleet, 0, image("a"))
    send(producer, fleet, 1, image("a"), image("b"))

    assert scores(producer, fleet, image("a"), image("b")) == [0.5, 1, 0]
    assert scores(producer, fleet, image("c")) == [0, 0, 0]


def test_larger_media_count_more_and_the_same_one_once() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet)
    send(producer, fleet, 0, image("a", 300))

    assert scores(producer, fleet, image("a", 300), image("a", 300), image("b", 100)) == [0.75]


def test_without_media_or_data_all_score_zero() -> None:
    fleet = make_fleet(2)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet)

    assert scores(producer, fleet) == [0, 0]
    assert list(make_plugin(MmEmbeddingsCacheScorer, fleet).score(make_request(), fleet.candidates())) == [0, 0]
    request = make_request()
    producer.produce(request, fleet.candidates())
    producer.pre_request(request, picked(fleet, 0))
    assert request.data[data_key(ENCODER_MATCH)].total_size == 0


def test_the_encode_endpoint_holds_the_media_where_there_is_one() -> None:
    fleet = make_fleet(2)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet)
    send(producer, fleet, 0, image("a"), encode=1)
    send(producer, fleet, 0, image("b"), encode=None)

    assert scores(producer, fleet, image("a")) == [0, 1]
    assert scores(producer, fleet, image("b")) == [1, 0]


@pytest.mark.parametrize("parameter", ["cacheSizeInMBPerServer", "cacheSizeInMB"])
def test_the_media_used_longest_ago_are_dropped(parameter: str) -> None:
    fleet = make_fleet(1)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet, **{parameter: 4})
    for name in ("a", "b", "a", "c"):
        send(producer, fleet, 0, image(name))

    assert [scores(producer, fleet, image(name)) for name in "abc"] == [[1], [0], [1]]


def test_an_endpoint_that_is_gone_holds_nothing() -> None:
    fleet = make_fleet(1)
    producer = make_plugin(MmEmbeddingsCacheProducer, fleet)
    send(producer, fleet, 0, image("a"))
    producer.endpoint_removed(fleet.candidates().endpoints[0])

    assert scores(producer, fleet, image("a")) == [0]


def test_another_producer_can_be_named() -> None:
    scorer = make_plugin(MmEmbeddingsCacheScorer, producerName="mine")
    fleet, request = make_fleet(1), make_request()
    request.data["EncoderCacheMatchInfo/mine"] = EncoderMatch(make_fleet(1).columns["waiting_requests"] + 1, 2)

    assert scorer.consumes() == ("EncoderCacheMatchInfo/mine",)
    assert list(scorer.score(request, fleet.candidates())) == [0.5]


def test_queries_and_hits_are_counted_by_kind_of_medium() -> None:
    recorder = make_recorder()
    fleet = make_fleet(2)
    handle = msgspec.structs.replace(make_handle(fleet, name="mm"), metrics=recorder.plugin_metrics)
    producer = make_plugin(MmEmbeddingsCacheProducer, handle=handle)
    picture, film = Medium(b"a", 300, kind="image"), Medium(b"b", 4500, kind="video")

    send(producer, fleet, 0, picture)
    send(producer, fleet, 0, picture, film)

    mine = {"plugin_type": "mm-embeddings-cache-producer", "plugin_name": "mm"}
    pod = fleet.candidates().endpoints[0].name
    assert value(recorder, "llm_d_epp_encoder_cache_queries_total", **mine, modality="image") == 2
    assert value(recorder, "llm_d_epp_encoder_cache_queries_total", **mine, modality="video") == 1
    assert value(recorder, "llm_d_epp_encoder_cache_hits_total", **mine, pod=pod, modality="image") == 1
    assert value(recorder, "llm_d_epp_encoder_cache_hit_ratio_sum", **mine) == 0.5
