"""Requests that are wrong in one way each, by what is wrong."""

from __future__ import annotations

import json
from typing import Any, Final

from epp_plugins.gen.vllm_engine_pb2 import GenerateRequest, TokenizedInput
from tests.differential.talk import Ask

CHAT: Final = "/v1/chat/completions"
_GENERATE: Final = "/vllm.grpc.engine.VllmEngine/Generate"


def _json(path: str, **fields: Any) -> Ask:
    return Ask(path=path, body=json.dumps(fields).encode())


def _chat(**fields: Any) -> Ask:
    return _json(CHAT, **({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields))


BAD_REQUESTS: Final[dict[str, Ask]] = {
    "not JSON": Ask(body=b"nonsense"),
    "empty body": Ask(body=b""),
    "cut-off JSON": Ask(body=b'{"model": "m", "prompt": "hi'),
    "JSON list": Ask(body=b"[1, 2]"),
    "JSON string": Ask(body=b'"hi"'),
    "JSON null": Ask(body=b"null"),
    "text behind the object": Ask(body=b'{"model": "m", "prompt": "hi"} {}'),
    "single quotes": Ask(body=b"{'model': 'm'}"),
    "empty object": _json("/v1/completions"),
    "completion without prompt": _json("/v1/completions", model="m"),
    "completion with an empty prompt": _json("/v1/completions", model="m", prompt=""),
    "completion with an empty list of prompts": _json("/v1/completions", model="m", prompt=[]),
    "completion with a number as prompt": _json("/v1/completions", model="m", prompt=7),
    "completion with an object as prompt": _json("/v1/completions", model="m", prompt={"a": "b"}),
    "completion with null as prompt": _json("/v1/completions", model="m", prompt=None),
    "completion without model": _json("/v1/completions", prompt="hi"),
    "completion with a number as model": _json("/v1/completions", prompt="hi", model=7),
    "completion with an empty model": _json("/v1/completions", prompt="hi", model=""),
    "completion with null as model": _json("/v1/completions", prompt="hi", model=None),
    "neither model nor prompt": _json("/v1/completions", model=1),
    "chat without messages": _json(CHAT, model="m"),
    "chat with an empty list of messages": _json(CHAT, model="m", messages=[]),
    "chat with text as messages": _json(CHAT, model="m", messages="hi"),
    "chat with a message that is text": _chat(messages=["hi"]),
    "chat with a number as content": _chat(messages=[{"role": "user", "content": 7}]),
    "chat without model": _json(CHAT, messages=[{"role": "user", "content": "hi"}]),
    "chat with text as tools": _chat(tools="hammer"),
    "chat with a number as role": _chat(messages=[{"role": 1, "content": "hi"}]),
    "responses without input": _json("/v1/responses", model="m"),
    "responses without model": _json("/v1/responses", input="hi"),
    "conversations without items": _json("/v1/conversations", model="m"),
    "conversations with no items": _json("/v1/conversations", model="m", items=[]),
    "embeddings without input": _json("/v1/embeddings", model="m"),
    "embeddings without model": _json("/v1/embeddings", input="hi"),
    "image without prompt": _json("/v1/images/generations", model="m"),
    "messages without messages": _json("/v1/messages", model="m", max_tokens=4),
    "messages that are not JSON": Ask(path="/v1/messages", body=b"nonsense"),
    "messages without model": _json("/v1/messages", max_tokens=4, messages=[{"role": "user", "content": "hi"}]),
    "generate without token_ids": _json("/inference/v1/generate", model="m"),
    "generate with text as token_ids": _json("/inference/v1/generate", model="m", token_ids="hi"),
    "generate with no token_ids": _json("/inference/v1/generate", model="m", token_ids=[]),
    "query behind the path": _json("/v1/completions?x=y", model="m"),
    "slash behind the path": _json("/v1/completions/", model="m"),
}
"""Refused by both with the default parsers."""

ODD_REQUESTS: Final[dict[str, Ask]] = {
    "unknown path": _json("/v2/anything", a=1),
    "unknown path without JSON": Ask(path="/v2/anything", body=b"\x00\xff"),
    "gRPC path without its parser": Ask(path=_GENERATE, body=b"\0\0\0\0\0"),
    "GET without a body": Ask(path="/v1/models", method="GET", body=None),
    "POST without a body": Ask(method="POST", body=None),
    "OPTIONS without a body": Ask(method="OPTIONS", body=None),
    "token ids as prompt": _json("/v1/completions", model="m", prompt=[1, 2, 3]),
    "list of prompts": _json("/v1/completions", model="m", prompt=["a", "b"]),
    "unknown fields": _json("/v1/completions", model="m", prompt="hi", unheard_of={"a": [1]}),
    "stream as text": _json("/v1/completions", model="m", prompt="hi", stream="true"),
    "max_tokens as text": _json("/v1/completions", model="m", prompt="hi", max_tokens="4"),
    "content parts": _chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
    "no content": _chat(messages=[{"role": "assistant", "content": None}]),
    "unknown content part": _chat(messages=[{"role": "user", "content": [{"type": "smell", "smell": "rose"}]}]),
    "two models": Ask(body=b'{"model": "m", "prompt": "hi", "model": "n"}'),
    "big numbers": Ask(body=b'{"model": "m", "prompt": "hi", "seed": 123456789012345678901234567890}'),
    "escapes": Ask(body=b'{"model": "m\\u00e9", "prompt": "<&>\\ud83d\\ude00"}'),
    "half a surrogate pair": Ask(body=b'{"model": "m", "prompt": "\\ud83d"}'),
    "bytes that are not UTF-8": Ask(body=b'{"model": "m", "prompt": "\xff"}'),
    "white space around": Ask(body=b' \n{"model": "m", "prompt": "hi"}\n'),
    "responses with items": _json("/v1/responses", model="m", input=[{"role": "user", "content": "hi"}]),
    "embeddings of a list": _json("/v1/embeddings", model="m", input=["a", "b"]),
    "count_tokens": _json("/v1/messages/count_tokens", model="m", messages=[{"role": "user", "content": "hi"}]),
    "messages": _json("/v1/messages", model="m", max_tokens=4, messages=[{"role": "user", "content": "hi"}]),
    "render": Ask(path="/v1/chat/completions/render", body=_chat().body),
    "generate": _json("/inference/v1/generate", model="m", token_ids=[1, 2, 3]),
    "body in pieces": Ask(body=json.dumps({"model": "m", "prompt": "hi" * 50}).encode(), body_pieces=5),
    "70 KB": Ask(body=json.dumps({"model": "m", "prompt": "hi" * 35000}).encode(), body_pieces=3),
    "subset of nobody": Ask(body=b'{"model": "m", "prompt": "hi"}', subset=()),
    "subset of a stranger": Ask(body=b'{"model": "m", "prompt": "hi"}', subset=("127.9.9.9:1",)),
    "objective that nobody defined": Ask(
        body=b'{"model": "m", "prompt": "hi"}', headers={"x-llm-d-inference-objective": "urgent"}
    ),
    "model rewritten by a header": Ask(
        body=b'{"model": "m", "prompt": "hi"}', headers={"x-llm-d-model-name-rewrite": "n"}
    ),
    "model rewritten by the older header": Ask(
        body=b'{"model": "m", "prompt": "hi"}', headers={"x-gateway-model-name-rewrite": "n"}
    ),
    "conditional decode without a cache": Ask(
        body=b'{"model": "m", "prompt": "never"}', headers={"prefer": "if-available"}
    ),
    "client names a destination": Ask(
        body=b'{"model": "m", "prompt": "hi"}', headers={"x-gateway-destination-endpoint": "1.2.3.4:5"}
    ),
}
"""Not plainly wrong, or not wrong at all: both go the same way."""


def _frame(message: GenerateRequest, *, flag: int = 0) -> bytes:
    data = message.SerializeToString()
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


_TEXT: Final = GenerateRequest(request_id="g", text="hi")
_EMBED: Final = "/vllm.grpc.engine.VllmEngine/Embed"

GRPC_REQUESTS: Final[dict[str, Ask]] = {
    "text": Ask(path=_GENERATE, body=_frame(_TEXT)),
    "tokens": Ask(path=_GENERATE, body=_frame(GenerateRequest(tokenized=TokenizedInput(input_ids=[1, 2, 3])))),
    "no input": Ask(path=_GENERATE, body=_frame(GenerateRequest(request_id="g"))),
    "empty body": Ask(path=_GENERATE, body=b""),
    "half a frame": Ask(path=_GENERATE, body=_frame(_TEXT)[:3]),
    "frame that is too short": Ask(path=_GENERATE, body=_frame(_TEXT)[:-1]),
    "compressed": Ask(path=_GENERATE, body=_frame(_TEXT, flag=1)),
    "not protobuf": Ask(path=_GENERATE, body=b"\0\0\0\0\3\xff\xff\xff"),
    "embedding without tokens": Ask(path=_EMBED, body=_frame(GenerateRequest(request_id="g"))),
    "unknown method": Ask(path="/vllm.grpc.engine.VllmEngine/Abort", body=_frame(_TEXT)),
    "unknown path": Ask(path="/v1/completions", body=b'{"model": "m", "prompt": "hi"}'),
}
"""For the vllmgrpc-parser alone."""
