"""What a real Envoy said is replayed through the stream; the replies must be those that were right when they were recorded.

To accept changed replies after looking at them: UPDATE_GOLDEN=1 pytest tests/wire/test_recorded_conversations.py
"""

import os
from pathlib import Path

import pytest
from google.protobuf import text_format

from epp.api import Termination
from epp.extproc.exchange import BodyMode, Destination
from epp.extproc.stream import Stream
from tests.support.conversations import FOLDER, Conversation, all_conversations
from tests.support.envoy_versions import VERSIONS
from tests.support.extproc import Replies, ScriptedExchange, take

CONVERSATIONS = all_conversations()
named = pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda c: c.name)


def replay(conversation: Conversation) -> tuple[ScriptedExchange, Replies, Stream]:
    exchange = ScriptedExchange()
    exchange.destination = Destination("127.0.0.1:8000")
    stream = Stream(exchange, max_body_bytes=1 << 20)
    replies = Replies()
    for message in conversation.messages:
        stream.receive(message.SerializeToString())
        replies += take(stream)
    if conversation.half_closed:
        stream.half_closed()
    else:
        stream.aborted()
    return exchange, replies, stream


@pytest.mark.parametrize("version", [version.rpartition(".")[0] for version in VERSIONS])
def test_there_are_conversations_of_every_kind_and_version(version: str) -> None:
    found = [c for c in CONVERSATIONS if c.name.startswith(f"envoy-{version}/")]

    assert {Path(c.name).name for c in found} == {"sse", "json", "large", "get", "trailers", "abort"}
    assert len(found) >= 44


@named
def test_replies_are_those_of_the_golden_file(conversation: Conversation) -> None:
    golden = FOLDER / f"{conversation.name}.replies"

    _, replies, _ = replay(conversation)

    text = "----\n".join(text_format.MessageToString(r) for r in replies)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@named
def test_nothing_is_out_of_place_and_the_exchange_is_closed_once(conversation: Conversation) -> None:
    exchange, _, stream = replay(conversation)

    assert stream.unexpected == 0
    assert exchange.failures == []
    assert len(exchange.closed) == 1
    assert stream.finished


@named
def test_requests_that_were_answered_end_as_complete(conversation: Conversation) -> None:
    exchange, _, _ = replay(conversation)

    aborted = conversation.name.endswith("/abort")
    # Without response bodies Envoy ends the stream alike when a client goes away and when all is well; a buffered response
    # reaches the client, and so its going away, only when it is whole.
    assert exchange.head is not None
    blind = exchange.head.response_body_mode in (BodyMode.NONE, BodyMode.BUFFERED)
    assert exchange.closed == [Termination.CLIENT_DISCONNECT if aborted and not blind else Termination.COMPLETE]


@named
def test_the_whole_body_reaches_the_decision_where_envoy_sends_it_first(conversation: Conversation) -> None:
    exchange, _, _ = replay(conversation)

    sent = b"".join(m.request_body.body for m in conversation.messages if m.WhichOneof("request") == "request_body")
    assert exchange.head is not None
    decided_on_headers = exchange.head.end_of_stream or exchange.head.request_body_mode in (
        BodyMode.STREAMED,
        BodyMode.NONE,
    )
    assert exchange.body == (None if decided_on_headers else sent)
