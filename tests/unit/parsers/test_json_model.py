"""Replacing the model name touches the value of the top-level member and nothing else."""

from __future__ import annotations

import pytest

from epp_plugins.parsers.json_model import replace_model, restore_model


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model":"a","x":1}', b'{"model":"NEW","x":1}'),
        (b'{ "x" : 1.50 , "model" :\n"a" }\n', b'{ "x" : 1.50 , "model" :\n"NEW" }\n'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"NEW"}'),
        (b'{"\\u006D\\u006fd\\u0065l":"a","model":"b"}', b'{"\\u006D\\u006fd\\u0065l":"NEW","model":"NEW"}'),
        (b'{"model":"a","y":[{}],"model":"b"}', b'{"model":"NEW","y":[{}],"model":"NEW"}'),
        (b'{"model":null}', b'{"model":"NEW"}'),
        (b'{"model":12,"x":1}', b'{"model":"NEW","x":1}'),
        (b'{"model":{"model":"a"},"x":[1]}', b'{"model":"NEW","x":[1]}'),
        (b'{"model":["}",[1]],"x":1}', b'{"model":"NEW","x":1}'),
        (b'{"model":"a\\"}"}', b'{"model":"NEW"}'),
        (b'{"x":{"model":"a"},"model":"b"}', b'{"x":{"model":"a"},"model":"NEW"}'),
        (b'{"model":"b","x":{"model":"a"}}', b'{"model":"NEW","x":{"model":"a"}}'),
        (b'{"x":[{"model":"a"}]}', b'{"model":"NEW","x":[{"model":"a"}]}'),
        (b'{"x":"say \\"model\\":\\"a\\""}', b'{"model":"NEW","x":"say \\"model\\":\\"a\\""}'),
        (b'{"say \\"model":"a"}', b'{"model":"NEW","say \\"model":"a"}'),
        (b'{"x":"model","y":"{","model":"a"}', b'{"x":"model","y":"{","model":"NEW"}'),
        (b'{"x":"\\\\","model":"a"}', b'{"x":"\\\\","model":"NEW"}'),
        (b' {"x":1}', b' {"model":"NEW","x":1}'),
        (b"{ }", b'{"model":"NEW" }'),
        (b"[]", b"[]"),
    ],
)
def test_only_top_level_model_values_are_replaced(body: bytes, result: bytes) -> None:
    assert replace_model(body, "NEW") == result


@pytest.mark.parametrize("pad", [0, 300, 600, 5000])
@pytest.mark.parametrize("order", ["first", "middle", "last"])
def test_the_place_of_the_member_does_not_matter(pad: int, order: str) -> None:
    """Long bodies are looked at from their nearer end."""
    filler = b'"messages":[{"content":"%s }","model":"inner"}]' % (b"x{" * pad)
    members = [filler.replace(b"messages", b"a"), filler.replace(b"messages", b"b")]
    members.insert({"first": 0, "middle": 1, "last": 2}[order], b'"model":"a"')

    result = replace_model(b"{" + b",".join(members) + b"}", "NEW")

    members[members.index(b'"model":"a"')] = b'"model":"NEW"'
    assert result == b"{" + b",".join(members) + b"}"


@pytest.mark.parametrize(("model", "value"), [('a"b', b'"a\\"b"'), ("é", '"é"'.encode()), ("\udc80", b'"\\udc80"')])
def test_names_are_written_as_json(model: str, value: bytes) -> None:
    assert replace_model(b'{"model":"x"}', model) == b'{"model":' + value + b"}"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model":"sent"}', b'{"model":"asked"}'),
        (b'{"model":"other"}', b'{"model":"other"}'),
        (b'{"model":"s\\u0065nt"}', b'{"model":"asked"}'),
        (b'{"model":1}', b'{"model":1}'),
        (b'{"x":"\\"model\\":\\"sent\\""}', b'{"x":"\\"model\\":\\"sent\\""}'),
        (b'{"x":{"model":"sent"}}', b'{"x":{"model":"sent"}}'),
        (b"", b""),
        (b"oops", b"oops"),
    ],
)
def test_the_model_is_restored_where_it_was_sent(body: bytes, result: bytes) -> None:
    assert restore_model(body, sent="sent", asked="asked") == result
