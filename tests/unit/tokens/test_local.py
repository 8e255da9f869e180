from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from epp.api import ConfigError
from epp_plugins.tokens.local import LocalTokenizer, NotRendered

MODEL = Path(__file__).parents[2] / "vllm" / "models" / "tiny"
WORDS = ["hello", "<|user|>", "</s>", "<s>", " and ", "\n\n", "é", "  ", "<|us", "er|>", "<|assistant|>", "42"]


def whole(tokenizer: LocalTokenizer, text: str, *, special: bool = False) -> list[int]:
    """Token ids, with whatever is known of pieces used and more of it learned."""
    known, pieces = tokenizer.known(text, special=special)
    ids = []
    for i, (found, piece) in enumerate(zip(known, pieces, strict=True)):
        encoded = found if found is not None else tokenizer.encode(piece, special=special and not i)
        tokenizer.learn(piece, encoded, special=special and not i)
        ids.append(encoded)
    data = tokenizer.prompt(ids).data
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


@pytest.fixture(scope="module")
def tiny() -> LocalTokenizer:
    return LocalTokenizer(str(MODEL))


@pytest.fixture(scope="module")
def reference() -> Any:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_pieces_give_the_tokens_of_the_whole(tiny: LocalTokenizer, reference: Any, text: str) -> None:
    assert tiny.splits
    assert whole(tiny, text) == reference.encode(text, add_special_tokens=False).ids


def test_of_a_text_that_goes_on_only_the_rest_is_new(tiny: LocalTokenizer) -> None:
    whole(tiny, "<|user|>a question</s><|assistant|>an answer</s>")

    known, pieces = tiny.known("<|user|>a question</s><|assistant|>an answer</s><|user|>another one</s>", special=False)

    assert [piece for piece, found in zip(pieces, known, strict=True) if found is None] == ["<|user|>another one"]


def folder_with(tmp_path: Path, tokenizer: Any, **settings: object) -> str:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(tmp_path)


def make_words(*, metaspace: bool = False, ends: bool = False) -> Any:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "</s>": 2, "a": 3, "\u2581a": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Metaspace(prepend_scheme="always") if metaspace else pre_tokenizers.Whitespace()
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    template = "<s> $A </s>" if ends else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def test_special_tokens_that_begin_a_prompt_stand_before_its_first_piece(tmp_path: Path) -> None:
    tokenizer = LocalTokenizer(folder_with(tmp_path, make_words()))

    assert tokenizer.splits
    assert whole(tokenizer, "a</s>a", special=True) == [1, 3, 2, 3]


def test_a_tokenizer_that_ends_prompts_with_a_token_is_never_cut(tmp_path: Path) -> None:
    tokenizer = LocalTokenizer(folder_with(tmp_path, make_words(ends=True)))

    assert not tokenizer.splits
    assert whole(tokenizer, "a</s>a", special=True) == [1, 3, 2, 3, 2]


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def rendered(tmp_path: Path, template: str | None, *contents: object, **fields: object) -> str:
    settings = {} if template is None else {"chat_template": template, "bos_token": {"content": "<s>"}}
    tokenizer = LocalTokenizer(folder_with(tmp_path, make_words(), **settings))
    messages = [{"role": "user", "content": content} for content in contents]
    return tokenizer.chat({"messages": messages, "add_generation_prompt": True, "tools": None, **fields})


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(("content", "text"), [("hi", "hi"), (parts("hi"), "hi"), (parts("a", "b"), "a\nb")])
def test_parts_are_lines_for_a_template_that_wants_a_text(tmp_path: Path, content: object, text: str) -> None:
    assert rendered(tmp_path, TEMPLATE, content) == f"[user]{text}"


def test_a_template_that_goes_through_parts_gets_parts(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% for p in m['content'] %}({{ p.text }}){% endfor %}{% endfor %}"

    assert rendered(tmp_path, template, "hi", parts("a", "b")) == "(hi)(a)(b)"


def test_templates_have_what_transformers_gives_them(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ tools | tojson }}{{ flag }}{% if add_generation_prompt %}!{% endif %}"

    text = rendered(tmp_path, template, "x", tools=[{"a": "<é>"}], chat_template_kwargs={"flag": "on"})

    assert text == '<s>[{"a": "<é>"}]on!'


@pytest.mark.parametrize(
    ("template", "content"),
    [
        ("{{ raise_exception('no') }}", "x"),
        ("{{ messages[7].role }}", "x"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "x"),
        (TEMPLATE, [{"type": "image_url", "image_url": {}}]),
        (TEMPLATE, 5),
        (None, "x"),
    ],
)
def test_what_cannot_be_rendered_is_one_kind_of_error(tmp_path: Path, template: str | None, content: object) -> None:
    """A sandbox among them: the template comes with the model, what it is run on comes from a client."""
    with pytest.raises(NotRendered):
        rendered(tmp_path, template, content)


def test_a_template_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    path = folder_with(tmp_path, make_words(), chat_template="{{ 'not this' }}")
    (tmp_path / "chat_template.jinja").write_text("{{ 'this' }}")

    assert LocalTokenizer(path).chat({"messages": []}) == "this"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", '{"chat_template": "{% for"}', "the chat template cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = folder_with(tmp_path, make_words())
    (tmp_path / name).write_text(content)

    with pytest.raises(ConfigError, match=message):
        LocalTokenizer(path)
