"""The JSON and SSE shapes of answers, as vLLM 0.32 writes them. No I/O.

A stream's chunks differ in their text only, and the text is plain words: they are put together from bytes, not encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Protocol

import msgspec

from epp.sim.sequence import Sequence

FINGERPRINT = "vllm-0.32.0-sim"
DONE = b"data: [DONE]\n\n"

Json = dict[str, object]


class Shape(Protocol):
    """How one endpoint says the same answer: all at once, or event by event. `index` is the number of the choice."""

    def whole(self, choices: Several[Sequence]) -> bytes: ...

    def opening(self, index: int) -> list[bytes]: ...

    def delta(self, index: int, text: str, finish_reason: str | None) -> bytes: ...

    def closing(self, choices: Several[Sequence], include_usage: bool) -> list[bytes]: ...


def event(payload: Json) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def token_sums(choices: Several[Sequence]) -> tuple[int, int, int]:
    """Prompt, output and cached tokens. The choices of one prompt (n > 1) share it, so it counts once."""
    prompts = {choice.prompt_id: choice for choice in reversed(choices)}.values()
    return (
        sum(choice.prompt_tokens for choice in prompts),
        sum(choice.generated for choice in choices),
        sum(choice.cached_tokens for choice in prompts),
    )


def usage(choices: Several[Sequence], *, whole: bool) -> Json:
    prompt, output, cached = token_sums(choices)
    details: Json = {"cached_tokens": cached, "created_cache_tokens": 0}
    counts: Json = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}
    if not whole:
        return {**counts, "prompt_tokens_details": details}
    return {
        **counts,
        "prompt_tokens_details": {**details, "multimodal_tokens": None},
        "completion_tokens_details": None,
    }


class _ChoiceStream:
    """Events of an endpoint whose stream is a list of like objects: completions and chat."""

    def __init__(self, answer_id: str, created: int, model: str, *, kind: str) -> None:
        self._head: Json = {"id": answer_id, "object": kind, "created": created, "model": model}
        self._prefix = b"data: " + msgspec.json.encode(self._head)[:-1]

    def usage_event(self, choices: Several[Sequence]) -> bytes:
        tail: Json = {"choices": [], "usage": usage(choices, whole=False), "system_fingerprint": FINGERPRINT}
        return event({**self._head, **tail})

    def closing(self, choices: Several[Sequence], include_usage: bool) -> list[bytes]:
        return [self.usage_event(choices), DONE] if include_usage else [DONE]


class CompletionShape(_ChoiceStream):
    def __init__(self, answer_id: str, created: int, model: str) -> None:
        super().__init__(answer_id, created, model, kind="text_completion")

    def whole(self, choices: Several[Sequence]) -> bytes:
        said = [
            {
                "index": index,
                "text": choice.text(0, choice.generated),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
            for index, choice in enumerate(choices)
        ]
        tail: Json = {
            "choices": said,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(choices, whole=True),
            "kv_transfer_params": None,
        }
        return msgspec.json.encode({**self._head, **tail})

    def opening(self, index: int) -> list[bytes]:
        return []

    def delta(self, index: int, text: str, finish_reason: str | None) -> bytes:
        reason = f'"{finish_reason}"' if finish_reason else "null"
        return (
            self._prefix
            + (
                f',"choices":[{{"index":{index},"text":"{text}","logprobs":null,"finish_reason":{reason},'
                '"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
            ).encode()
        )


class ChatShape(_ChoiceStream):
    def __init__(self, answer_id: str, created: int, model: str) -> None:
        super().__init__(answer_id, created, model, kind="chat.completion.chunk")

    def whole(self, choices: Several[Sequence]) -> bytes:
        said = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": choice.text(0, choice.generated),
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
            for index, choice in enumerate(choices)
        ]
        tail: Json = {
            "object": "chat.completion",
            "choices": said,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(choices, whole=True),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
        return msgspec.json.encode({**self._head, **tail})

    def opening(self, index: int) -> list[bytes]:
        role: Json = {"role": "assistant", "content": ""}
        choice: Json = {"index": index, "delta": role, "logprobs": None, "finish_reason": None}
        return [event({**self._head, "choices": [choice], "prompt_token_ids": None, "prompt_text": None})]

    def delta(self, index: int, text: str, finish_reason: str | None) -> bytes:
        reason = f'"{finish_reason}","stop_reason":null' if finish_reason else "null"
        return (
            self._prefix
            + (
                f',"choices":[{{"index":{index},"delta":{{"content":"{text}"}},"logprobs":null,'
                f'"finish_reason":{reason},"token_ids":null}}]}}\n\n'
            ).encode()
        )


class ResponsesShape:
    """/v1/responses: one output message. Its events carry a type, a sequence number, and no [DONE] at the end."""

    def __init__(self, answer_id: str, created: int, model: str) -> None:
        self._head: Json = {"id": answer_id, "object": "response", "created_at": created, "model": model}
        self._item_id = answer_id.replace("resp_", "msg_", 1)
        self._number = 0

    def whole(self, choices: Several[Sequence]) -> bytes:
        return msgspec.json.encode(self._response(choices[0]))

    def opening(self, index: int) -> list[bytes]:
        item: Json = {**self._item("in_progress", None), "content": []}
        place: Json = {"output_index": 0, "content_index": 0, "item_id": self._item_id}
        return [
            self._event("response.created", {"response": self._response(None)}),
            self._event("response.in_progress", {"response": self._response(None)}),
            self._event("response.output_item.added", {"output_index": 0, "item": item}),
            self._event("response.content_part.added", {**place, "part": _text_part("")}),
        ]

    def delta(self, index: int, text: str, finish_reason: str | None) -> bytes:
        place: Json = {"output_index": 0, "content_index": 0, "item_id": self._item_id}
        return self._event("response.output_text.delta", {**place, "delta": text, "logprobs": []})

    def closing(self, choices: Several[Sequence], include_usage: bool) -> list[bytes]:
        choice = choices[0]
        text = choice.text(0, choice.generated)
        place: Json = {"output_index": 0, "content_index": 0, "item_id": self._item_id}
        kind = "response.completed" if choice.finish_reason == "stop" else "response.incomplete"
        return [
            self._event("response.output_text.done", {**place, "text": text, "logprobs": []}),
            self._event("response.content_part.done", {**place, "part": _text_part(text)}),
            self._event("response.output_item.done", {"output_index": 0, "item": self._item("completed", text)}),
            self._event(kind, {"response": self._response(choice)}),
        ]

    def _event(self, kind: str, fields: Json) -> bytes:
        payload = msgspec.json.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + payload + b"\n\n"

    def _item(self, status: str, text: str | None) -> Json:
        content = [] if text is None else [_text_part(text)]
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, choice: Sequence | None) -> Json:
        if choice is None:
            return {**self._head, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        prompt, output, cached = token_sums([choice])
        cut = choice.finish_reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "output": [self._item("completed", choice.text(0, choice.generated))],
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + output,
            },
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
