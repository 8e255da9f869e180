"""What a request body means, and which faults apply to it."""

from __future__ import annotations

import msgspec
import pytest

from epp.sim.config import SimConfig, StepCost
from epp.sim.faults import Faults, changed, for_request
from epp.sim.schema import ChatRequest, Message, Part, chat_prompt, plain_prompts


def test_all_four_forms_of_a_prompt_are_read() -> None:
    assert plain_prompts("ab") == [b"ab"]
    assert plain_prompts(["ab", "cd"]) == [b"ab", b"cd"]
    assert plain_prompts([1, 256]) == [b"\1\0\0\0\0\1\0\0"]
    assert plain_prompts([[1], [2]]) == [b"\1\0\0\0", b"\2\0\0\0"]


@pytest.mark.parametrize("prompt", [[], [1, "a"]])
def test_an_empty_or_mixed_list_is_no_prompt(prompt: list[str | int | list[int]]) -> None:
    with pytest.raises(ValueError, match="prompt must be"):
        plain_prompts(prompt)


def test_the_next_turn_of_a_chat_begins_with_the_last_one_and_its_answer() -> None:
    question = [Message("user", "why?")]
    first = chat_prompt(question)
    second = chat_prompt([*question, Message("assistant", " box red"), Message("user", "so?")])

    assert second.startswith(first + b" box red")


def test_tools_and_images_are_part_of_the_prompt() -> None:
    body = b"""{"messages": [{"role": "user", "content": [{"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:1"}}]}], "tools": [{"type": "function"}]}"""
    asked = msgspec.json.decode(body, type=ChatRequest)
    one = chat_prompt(asked.messages, tools=bytes(asked.tools))
    other = chat_prompt(msgspec.json.decode(body.replace(b"data:1", b"data:2"), type=ChatRequest).messages)

    assert one.startswith(b'[{"type": "function"}]<|user|>see')
    assert one.removeprefix(bytes(asked.tools)) != other
    assert len(one.removeprefix(bytes(asked.tools))) == len(other)


def test_a_message_without_content_is_allowed() -> None:
    assert chat_prompt([Message("assistant"), Message("user", [Part()])]) == (
        b"<|assistant|><|end|><|user|><|end|><|assistant|>"
    )


def test_headers_override_the_faults_of_the_server() -> None:
    faults = for_request(Faults(delay_ms=5, error=500), {"x-sim-error": "429", "x-sim-drop": "2"})

    assert faults == Faults(delay_ms=5, error=429, drop=2)


@pytest.mark.parametrize("text", ["", "true", "0"])
def test_hang_without_a_number_means_at_once(text: str) -> None:
    assert for_request(Faults(), {"x-sim-hang": text}).hang == 0


@pytest.mark.parametrize(
    "headers", [{"x-sim-error": "often"}, {"x-sim-error": "99"}, {"x-sim-drop": "-1"}, {"x-sim-delay-ms": "-5"}]
)
def test_a_fault_header_that_makes_no_sense_is_named(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(headers))):
        for_request(Faults(), headers)


def test_faults_are_changed_one_by_one_and_taken_back_with_null() -> None:
    faults = changed(changed(Faults(), {"delay_ms": 10, "frozen": True}), {"delay_ms": None})

    assert faults == Faults(frozen=True)


@pytest.mark.parametrize("changes", [{"dealy_ms": 10}, {"error": "no"}, {"frozen": 3}])
def test_unknown_or_wrong_faults_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"dealy_ms|error|frozen"):
        changed(Faults(), changes)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"blocks": 1}, "blocks"),
        ({"max_queued_requests": 0}, "max_queued_requests"),
        ({"blocks": 3, "max_model_len": 100}, "max_model_len"),
        ({"loras": ("sim-model",)}, "loras"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SimConfig(**fields)  # type: ignore[arg-type]


def test_costs_must_be_possible() -> None:
    with pytest.raises(ValueError, match="speed"):
        StepCost(speed=0)
    with pytest.raises(ValueError, match="base_ms"):
        StepCost(base_ms=-1)
