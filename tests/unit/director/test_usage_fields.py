"""Members that are added to a usage: at the right place, or nowhere."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.director.restoring import EventRestorer
from epp.director.usage_fields import in_document, in_events

USAGE = b'{"prompt_tokens":7, "completion_tokens" : 5}'


def members() -> bytes:
    return b'"a":1,"b":[2]'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"usage":%b}' % USAGE, b'{"usage":{"prompt_tokens":7, "completion_tokens" : 5,"a":1,"b":[2]}}'),
        (b'{"usage": { } , "id":"1"}', b'{"usage": { "a":1,"b":[2]} , "id":"1"}'),
        (
            b'{"x":{"usage":{"n":1}},"usage":{"n":1}}',
            b'{"x":{"usage":{"n":1}},"usage":{"n":1,"a":1,"b":[2]}}',
        ),
        (
            b'{"choices":[{"text":"\\"usage\\":{\\"n\\":1}"}],"usage":{"n":1}}\n',
            b'{"choices":[{"text":"\\"usage\\":{\\"n\\":1}"}],"usage":{"n":1,"a":1,"b":[2]}}\n',
        ),
    ],
)
def test_members_are_added_and_all_other_bytes_stay(before: bytes, after: bytes) -> None:
    assert in_document(before, members) == after
    assert json.loads(after)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"usage":null}',
        b'{"usage":[1]}',
        b'{"usage":"x"}',
        b'{"usage":{"n":1}',
        b'{"usage":{"n":1}} and more',
        b'[{"usage":{"n":1}}]',
        b'{"choices":"none","usage":{"n":1}}',
        b'{"response":{"usage":{"n":1}}}',
        b'no JSON with a "usage"',
    ],
)
def test_what_is_not_as_expected_stays_as_it_is(body: bytes) -> None:
    assert in_document(body, members) == body


def event(data: bytes, end: bytes = b"\n\n") -> bytes:
    return b"data: " + data + end


TOKEN = event(b'{"choices":[{"text":"x","finish_reason":null}],"usage":{"completion_tokens":1}}')
LAST = event(b'{"choices":[],"usage":{"completion_tokens":5}}')
DONE = event(b"[DONE]")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            TOKEN + LAST + DONE, TOKEN + LAST.replace(b"5}", b'5,"a":1,"b":[2]}') + DONE, id="the last of several"
        ),
        pytest.param(
            event(b'{"choices":[{"finish_reason":"length"}],"usage":{"n":5}}', b"\r\n\r\n"),
            event(b'{"choices":[{"finish_reason":"length"}],"usage":{"n":5,"a":1,"b":[2]}}', b"\r\n\r\n"),
            id="that says why it ended",
        ),
        pytest.param(
            b"event: message_delta\n" + event(b'{"type":"message_delta","usage":{"output_tokens":5}}'),
            b"event: message_delta\n" + event(b'{"type":"message_delta","usage":{"output_tokens":5,"a":1,"b":[2]}}'),
            id="of an API without choices",
        ),
        pytest.param(event(b'{"choices":[],"usage":null}'), event(b'{"choices":[],"usage":null}'), id="no usage"),
        pytest.param(b': "usage" is near\n\n', b': "usage" is near\n\n', id="a comment"),
        pytest.param(b'data: {"usage":\n\n', b'data: {"usage":\n\n', id="half an event"),
    ],
)
def test_the_event_that_ends_the_answer_gets_them(before: bytes, after: bytes) -> None:
    assert in_events(before, members) == after


@given(cuts=st.lists(st.integers(0, len(TOKEN + LAST + DONE)), max_size=6))
def test_events_may_come_in_any_pieces(cuts: list[int]) -> None:
    stream = TOKEN + LAST + DONE
    at = [0, *sorted(cuts), len(stream)]
    restorer = EventRestorer(lambda body: in_events(body, members))

    out = b"".join(restorer.feed(stream[a:b], last=b == len(stream)) for a, b in itertools.pairwise(at) if a < b)

    assert out == in_events(stream, members)


@given(
    body=st.binary(max_size=60), around=st.sampled_from([b"%b", b'{"usage":%b}', b'{"usage":{%b}}', b"data: {%b}\n\n"])
)
def test_any_bytes_are_taken(body: bytes, around: bytes) -> None:
    data = around.replace(b"%b", body)

    for changed in (in_document(data, members), in_events(data, members)):
        assert changed == data or changed.replace(b',"a":1,"b":[2]', b"").replace(b'"a":1,"b":[2]', b"") == data
