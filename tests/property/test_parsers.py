"""Properties of parsers: nothing but RequestError for any bytes, usage in any split, prefixes, exact splices."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.api import Code, Parser, Request, RequestError, Usage
from epp_plugins.builtin_parsers import PARSERS
from epp_plugins.gen import vllm_engine_pb2 as vllm
from epp_plugins.parsers.grpc_frames import frame
from epp_plugins.parsers.json_model import replace_model, restore_model
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.parsers.sse import SseUsageReader, restore_model_in_events
from epp_plugins.parsers.vllmgrpc_parser import GenerateUsageReader
from tests.support.parsing import parse, response
from tests.support.plugins import make_plugin

PATHS = [(cls, path) for cls in PARSERS for path in (*(f"/{p}" for p in make_plugin(cls).paths()), "/v1/any")]
MODEL_KEYS = ["model", "mod\\u0065l", "\\u006dodel"]
KEYS = [*MODEL_KEYS, "messages", "prompt", "input", "items", "stream", "tools", "max_tokens", "usage", 'say \\"model']

inner_keys = st.one_of(st.sampled_from(["role", "content", "model", "text", "type", "image_url"]), st.text(max_size=4))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)
values = st.recursive(
    st.one_of(scalars, st.sampled_from(["model", '"model":"sent"', "sent", "{", "]"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(inner_keys, inner, max_size=4)),
    max_leaves=8,
)
space = st.sampled_from(["", " ", "\n", "\t "])
member = st.tuples(st.sampled_from(KEYS), st.one_of(values, st.just("sent")), space, space)
texts = st.text(max_size=12)


class Document(NamedTuple):
    """A JSON object in any spacing, some of its keys repeated or written with escapes."""

    members: list[tuple[str, Any, str, str]]
    around: str

    def text(self, *, sent: str | None = None, every: str | None = None) -> bytes:
        """`sent` and `every`: the JSON that stands for top-level models, those that are "sent" or all."""
        pieces = []
        for key, value, a, b in self.members:
            said = json.dumps(value)
            if key in MODEL_KEYS:
                said = every or (sent if sent and value == "sent" else said)
            pieces.append(f'{a}"{key}"{b}:{a}{said}{b}')
        return f"{self.around}{{{','.join(pieces)}}}{self.around}".encode()


documents = st.builds(Document, st.lists(member, max_size=6), space)
bodies = documents.map(Document.text)


def splits(body: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(c % (len(body) + 1) for c in cuts), len(body)]
    return [body[a:b] for a, b in pairwise(at)]


@pytest.mark.parametrize(("cls", "path"), PATHS)
@settings(max_examples=60)
@given(body=st.one_of(st.binary(max_size=60), bodies, bodies.map(lambda text: text[:-2])))
def test_any_bytes_are_a_payload_or_a_refusal(cls: type[Parser], path: str, body: bytes) -> None:
    code = None
    try:
        parse(cls, path, body).with_model(body, "m")
    except RequestError as error:
        code = error.code

    assert code in (None, Code.BAD_REQUEST)


@settings(max_examples=300)
@given(document=documents, model=texts)
def test_a_splice_changes_every_top_level_model_and_no_other_byte(document: Document, model: str) -> None:
    result = replace_model(document.text(), model)

    assert json.loads(result) == {**json.loads(document.text()), "model": model}
    if any(key in MODEL_KEYS for key, *_ in document.members):
        assert replace_model(document.text(), "MARK") == document.text(every='"MARK"')


@settings(max_examples=300)
@given(document=documents)
def test_only_models_that_were_sent_are_restored(document: Document) -> None:
    body, expected = document.text(), document.text(sent='"asked"')
    event, expected_event = (b"data: " + text.replace(b"\n", b" ") for text in (body, expected))

    assert restore_model(body, sent="sent", asked="asked") == expected
    assert restore_model_in_events(event, sent="sent", asked="asked", inner=b"response") == expected_event


@settings(max_examples=200)
@given(body=st.binary(max_size=80))
def test_restoring_takes_any_bytes(body: bytes) -> None:
    parser = make_plugin(OpenAIParser)
    for data in (body, b'{"model":' + body, b'data: {"response":' + body, b'data: {"a":1,"model":"sent"' + body):
        restored = parser.restore_model(data, sent="sent", asked="asked")

        assert restored in (data, data.replace(b'"sent"', b'"asked"', 1))


@settings(max_examples=200)
@given(
    lines=st.lists(
        st.one_of(
            st.builds(lambda p, c: json.dumps({"usage": {"prompt_tokens": p, "completion_tokens": c}}), values, values),
            st.integers(0, 99).map(lambda n: json.dumps({"usage": {"prompt_tokens": n}})),
            values.map(json.dumps),
            st.just("[DONE]"),
            st.text(max_size=10),
        ),
        max_size=6,
    ),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_usage_does_not_depend_on_the_split(lines: list[str], end: str, cuts: list[int]) -> None:
    body = "".join(f"data: {line}{end}" for line in lines).encode(errors="replace")
    whole, pieces = SseUsageReader(), SseUsageReader()

    whole.feed(body)
    for chunk in splits(body, cuts):
        pieces.feed(chunk)

    assert pieces.finish() == whole.finish()


@settings(max_examples=100)
@given(
    counts=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_grpc_usage_does_not_depend_on_the_split(counts: list[tuple[int, int]], cuts: list[int]) -> None:
    chunks = [vllm.GenerateStreamChunk(prompt_tokens=p, completion_tokens=c) for p, c in counts]
    body = b"".join(frame(vllm.GenerateResponse(chunk=chunk).SerializeToString()) for chunk in chunks)
    reader = GenerateUsageReader()

    for piece in splits(body, cuts):
        reader.feed(piece)

    prompt, completion = counts[-1]
    assert reader.finish() == Usage(prompt, completion, prompt + completion, 0)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("cls", [cls for cls in PARSERS if make_plugin(cls).paths()])
@settings(max_examples=30)
@given(chunks=st.lists(st.one_of(st.binary(max_size=40), bodies), max_size=4))
def test_usage_readers_take_any_bytes(cls: type[Parser], content_type: str, chunks: list[bytes]) -> None:
    parser = make_plugin(cls)
    reader = parser.usage_reader(Request("r", {":path": f"/{parser.paths()[0]}"}), response(content_type))
    assert reader is not None
    for chunk in chunks:
        reader.feed(chunk)

    found = reader.finish()

    assert found is None or all(count is None or count >= 0 for count in (found.prompt_tokens, found.cached_tokens))


part = st.one_of(
    texts.map(lambda t: {"type": "text", "text": t}),
    texts.map(lambda t: {"type": "image_url", "image_url": {"url": t}}),
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={
        "content": st.one_of(st.none(), texts, st.lists(part, max_size=3)),
        "tool_calls": st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2),
    },
)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def chat_data(messages: list[dict[str, Any]], tools: list[Any]) -> bytes:
    return parse(OpenAIParser, "/v1/chat/completions", {"messages": messages, "tools": tools}).prompts[0].data


@settings(max_examples=200)
@given(messages=st.lists(message, min_size=2, max_size=6), at=st.integers(1, 5), tools=st.lists(texts, max_size=2))
def test_a_conversation_begins_with_the_bytes_of_its_earlier_state(
    messages: list[dict[str, Any]], at: int, tools: list[str]
) -> None:
    at = min(at, len(messages) - 1)

    later, earlier = chat_data(messages, tools), chat_data(messages[:at], tools)

    assert later.startswith(earlier)
    assert len(later) > len(earlier)


@settings(max_examples=200)
@given(one=turns, other=turns)
def test_different_conversations_have_different_bytes(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    def data(conversation: list[tuple[str, str]]) -> bytes:
        return chat_data([{"role": role, "content": content} for role, content in conversation], [])

    assert (data(one) == data(other)) == (one == other)
