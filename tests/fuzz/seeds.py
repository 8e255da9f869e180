"""Writes the seeds of every corpus from recorded conversations and from what the `h2` library sends.

`python -m tests.fuzz.seeds FOLDER` fills FOLDER/frames, FOLDER/hpack and so on; merge them into tests/fuzz/corpus with
`python -m tests.fuzz TARGET -merge=1 tests/fuzz/corpus/TARGET FOLDER/TARGET`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import hpack
import msgspec

from epp.extproc.exchange import BodyMode
from epp.http2 import frames as wire
from epp.server.lean import CHECK, LIST, PROCESS
from tests.fuzz.fuzz_conversation import Step
from tests.support.conversations import Conversation, all_conversations
from tests.support.extproc import (
    POST,
    hint,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
)
from tests.support.http2_peer import message

SMALL_BYTES = 6000
BODY = b'{"model": "m", "prompt": "hello"}'


def small_conversations() -> list[Conversation]:
    return [c for c in all_conversations() if sum(map(len, c.chunks)) < SMALL_BYTES]


def _sized(piece: bytes) -> bytes:
    return len(piece).to_bytes(2, "big") + piece


def _client() -> h2.connection.H2Connection:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    return client


def _head(path: str, *extra: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "epp")),
        *(("te", "trailers"), ("content-type", "application/grpc"), *extra),
    ]


def frames() -> Iterator[bytes]:
    for options in (0, 2, 4, 8, 14):
        client = _client()
        for path in ("/echo", "/finish", "/reset", "/pause", "/nothing"):
            stream_id = client.get_next_available_stream_id()
            client.send_headers(stream_id, _head(path, ("grpc-timeout", "3S"), ("grpc-accept-encoding", "gzip")))
            client.send_data(stream_id, message(b"hello" * 9), pad_length=options or None)
            client.end_stream(stream_id)
        client.ping(b"12345678")
        client.update_settings({4: 100})
        client.increment_flow_control_window(1000)
        yield bytes([options]) + client.data_to_send()
    for piece in (
        wire.settings([(4, 5), (5, 20_000), (1, 0), (77, 1)]),
        wire.window_update(0, 9) + wire.frame(wire.PRIORITY, 0, 3, b"\0\0\0\1\7") + wire.rst_stream(1, 8),
        wire.frame(wire.HEADERS, 0, 1, hpack.Encoder().encode(_head("/echo"))[:9])
        + wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, hpack.Encoder().encode(_head("/echo"))[9:])
        + wire.frame(wire.DATA, 0, 1, message(b"x" * 3000)) * 3
        + wire.frame(wire.DATA, 1, 1),
        wire.goaway(0, 0) + wire.frame(11, 0, 0, b"later"),  # type: ignore[arg-type]
    ):
        yield b"\1" + piece
        yield b"\3" + piece


def hpack_blocks() -> Iterator[bytes]:
    encoder = hpack.Encoder()
    requests = [
        _head(PROCESS, ("user-agent", "grpc"), ("traceparent", f"00-{number:032x}-01")) for number in range(4)
    ] + [[(":status", "200")], [("grpc-status", "0"), ("grpc-message", "é%20")], [("content-length", "5")]]
    for huffman in (True, False):
        yield b"".join(_sized(encoder.encode(fields, huffman=huffman)) for fields in requests)
    encoder.header_table_size = 100
    yield _sized(encoder.encode(requests[0]))


def protobuf() -> Iterator[bytes]:
    for conversation in small_conversations():
        yield b"".join(map(_sized, conversation.chunks))
    subset = request_headers(subset=["10.0.0.1:8000", 7])
    other = request_headers({**POST, "x-gateway-model-name-rewrite": "other", "x-wait": "producer"})
    hint(other, [])
    for head in (subset, other):
        yield b"".join(
            _sized(m.SerializeToString()) for m in (head, request_body(BODY), request_trailers(), response_headers())
        )


def conversation() -> Iterator[bytes]:
    for recorded in small_conversations():
        steps = b"".join(bytes([Step.MESSAGE << 3]) + _sized(chunk) for chunk in recorded.chunks)
        yield steps + bytes([(Step.HALF_CLOSE if recorded.half_closed else Step.RESET) << 3])
    yield from _waiting()
    plain = [(Step.MESSAGE << 3 | slot, _sized(b"\n\0")) for slot in (METHOD_SLOTS[CHECK], METHOD_SLOTS[LIST])]
    yield b"".join(bytes([first]) + rest + bytes([Step.HALF_CLOSE << 3 | first & 7]) for first, rest in plain)


METHOD_SLOTS = {CHECK: 6, LIST: 7}


def _waiting() -> Iterator[bytes]:
    """Two calls that wait, while endpoints come and go and windows are small."""
    for where in ("producer", "admitter", "producer admitter"):
        head = request_headers({**POST, "x-wait": where}, response_mode=BodyMode.STREAMED).SerializeToString()
        full = request_headers({**POST, "x-wait": where}).SerializeToString()
        end = request_body(BODY, end=True).SerializeToString()
        begin = b"".join(bytes([Step.MESSAGE << 3 | slot]) + _sized(piece) for slot in (1, 2) for piece in (full, end))
        answer = b"".join(
            bytes([Step.MESSAGE << 3 | 1]) + _sized(m.SerializeToString())
            for m in (response_headers(), response_body(b"data: {}\n\n"), response_body(b"", end=True))
        )
        window = bytes([Step.WINDOW << 3]) + (40).to_bytes(2, "big")
        between = bytes([Step.TURN << 3, Step.ENDPOINT << 3 | 1, Step.END_WAITS << 3, Step.END_WAITS << 3])
        yield begin + between + answer + bytes([Step.HALF_CLOSE << 3 | 1, Step.RESET << 3 | 2])
        yield window + begin + bytes([Step.RESET << 3 | 1]) + between + bytes([Step.UPDATE << 3 | 2]) * 3
        yield bytes([Step.PAUSE << 3, Step.MESSAGE << 3]) + _sized(head) + begin + between + bytes([Step.RESUME << 3])
        yield begin + bytes([Step.GO_AWAY << 3, Step.LATER << 3 | 7]) + between


def kv_events() -> Iterator[bytes]:
    stored = {"block_hashes": [1, 2], "parent_block_hash": None, "token_ids": [5, 6], "block_size": 1, "medium": "GPU"}
    events: list[object] = [
        {"type": "BlockStored", **stored},
        {"type": "BlockStored", **stored, "lora_name": "a", "extra_keys": [["a"], ["a", ["mm", 1], "salt", b"x"]]},
        {"type": "BlockStored", **stored, "token_ids": [], "block_size": 0, "medium": "CPU"},
        {"type": "BlockStored", **stored, "parent_block_hash": b"\0" * 31 + b"\2", "group_idx": 1},
        ["BlockStored", [3, -4], 2, [7, 8], 1, 4, "CPU"],
        ["BlockStored", [3, 4], None, [7, 8], 1],
        {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU", "group_idx": 0},
        ["BlockRemoved", [b"\0" * 32, 2**64 - 1], None],
        {"type": "AllBlocksCleared"},
        ["AllBlocksCleared"],
        ["BlockMoved", 1],
    ]
    for first, event in enumerate(events):
        for other in (events[0], events[6]):
            batches = [[1.5, [other, event], 0], [2.5, [event]], [0.5, [other], 1]]
            yield b"".join(bytes([0x41 + i]) + _sized(msgspec.msgpack.encode(b)) for i, b in enumerate(batches, first))


def main(folder: Path) -> None:
    made = {
        "frames": frames(),
        "hpack": hpack_blocks(),
        "protobuf": protobuf(),
        "conversation": conversation(),
        "kv_events": kv_events(),
    }
    for target, seeds in made.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            (folder / target / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
