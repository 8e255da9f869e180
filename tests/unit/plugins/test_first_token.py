from __future__ import annotations

import pytest

from epp_plugins.first_token import FirstToken

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0}}\n\n'


@pytest.mark.parametrize(
    "piece",
    [
        TOKEN,
        ROLE + TOKEN,
        b'data: {"choices":[{"text":"Hi"}]}\n\n',
        b'data: {"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}\n\n',
        b'data: {"choices":[{"delta":{"reasoning_content":"so"}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"delta":{"role":"assistant"}},{"delta":{"content":"Hi"}}]}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
        b'data: {"error":{"message":"no"}}\n\n',
        b"data: [DONE]\n\n",
        b"data: nonsense\n\n",
        b"data: 7\n\n",
        b'{"choices":[{"text":"a whole answer"}]}',
        b"\x00\x00\x00\x00\x07grpc",
    ],
)
def test_something_generated_is_a_first_token(piece: bytes) -> None:
    assert FirstToken().is_in(piece)


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"\r\n",
        b": keep-alive\n\n",
        b"event: ping\ndata: {}\n"[:12],
        ROLE,
        ROLE.replace(b"\n", b"\r\n"),
        USAGE,
        b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n',
        b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n',
        b'data: {"choices":[{"text":""}]}\n\n',
        b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'data: {"type":"response.created","response":{}}\n\n',
        b'data: {"type":"response.content_part.added"}\n\n',
    ],
)
def test_what_only_opens_a_stream_is_none(piece: bytes) -> None:
    assert not FirstToken().is_in(piece)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_pieces_may_be_cut_anywhere(size: int) -> None:
    stream = ROLE + TOKEN
    reader = FirstToken()
    found = [at for at in range(0, len(stream), size) if reader.is_in(stream[at : at + size])]

    # The line of the first token is complete with its line feed.
    assert found[0] + size >= len(ROLE) + len(TOKEN) - 1


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    assert FirstToken().is_in(b"data: " + b"x" * 70_000)
