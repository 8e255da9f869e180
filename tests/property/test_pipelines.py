"""Random configurations: each is the same after it was written out, and each picks for every request, without a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_NUM_BLOCKS,
    KV_CACHE_USAGE,
    LORA_CAPACITY,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
)
from epp.cli import main
from epp.config import InvalidConfig, Pipeline, Registry, build, load_text, resolved_of, to_yaml
from epp.config.json_schema import config_schema
from epp.director.director import Director
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import ExtProc
from epp_plugins.registry import ALIASES, BUILTIN
from tests.support.configs import make_environment
from tests.support.extproc import (
    POST,
    Replies,
    request_body,
    request_headers,
    response_body,
    response_headers,
)
from tests.support.random_configs import Config, plain_configs, rich_configs
from tests.support.service import in_flight, make_director

REGISTRY = Registry(BUILTIN)
SCHEMA = Draft202012Validator(config_schema(Registry(BUILTIN, aliases=ALIASES), former_names=ALIASES)[0])
CONFIGS = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))


def built(text: str) -> Pipeline:
    return build(load_text(text), REGISTRY, make_environment(allow_experimental=True))


# --- writing out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_what_check_writes_out_means_the_same(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again.yaml"
    options = ["--allow-experimental-plugins", "--output", "yaml"]
    assert main(["check", *options, str(file)]) == 0
    again.write_text(capsys.readouterr().out)
    assert main(["check", *options, str(again)]) == 0
    third = capsys.readouterr().out

    assert built(again.read_text()).config_hash == built(file.read_text()).config_hash
    assert third == again.read_text()


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(rich_configs())
def test_any_valid_configuration_means_the_same_after_it_was_written_out(config: Config) -> None:
    try:
        pipeline = built(json.dumps(config))
    except InvalidConfig:
        assume(False)
    written = to_yaml(resolved_of(pipeline))

    again = built(written)

    assert again.config_hash == pipeline.config_hash
    assert to_yaml(resolved_of(again)) == written
    assert [e.message for e in SCHEMA.iter_errors(config)] == []
    assert [e.message for e in SCHEMA.iter_errors(yaml.safe_load(written))] == []


# --- picking -------------------------------------------------------------------------------------------------------------

counts = st.integers(0, 1000).map(float)
columns = st.fixed_dictionaries(
    {
        WAITING_REQUESTS: counts,
        RUNNING_REQUESTS: counts,
        KV_CACHE_USAGE: st.floats(0, 1),
        LORA_CAPACITY: st.sampled_from([0.0, 1.0, 8.0]),
        CACHE_BLOCK_SIZE: st.sampled_from([0.0, 16.0, 64.0]),
        CACHE_NUM_BLOCKS: st.sampled_from([0.0, 100.0, 50_000.0]),
        METRICS_UPDATED_S: st.sampled_from([float("-inf"), 0.0, 1e12]),
    }
)
# Who may do everything is removed by none of the filters that go by role; those that go by load keep somebody.
labels = st.fixed_dictionaries(
    {"llm-d.ai/role": st.just("encode-prefill-decode")},
    optional={"llm-d.ai/context-length-range": st.sampled_from(["0-100", "100-100000", "all"])},
)
fleets = st.lists(st.tuples(columns, labels, st.sampled_from([(), ("m",), ("other", "m")])), min_size=1, max_size=6)

# These let a request wait, for which an event loop is needed.
WAITING = ("burst-prefix-cache-producer",)

words = st.sampled_from(["hello", "one prompt " * 200, "x", "naïve 日本語"])
requests = st.tuples(
    st.sampled_from(["/v1/completions", "/v1/chat/completions"]), st.sampled_from(["m", "base"]), words, st.booleans()
)


def fill(director: Director, fleet: list[tuple[dict[str, float], dict[str, str], tuple[str, ...]]]) -> None:
    for endpoint, (numbers, given_labels, adapters) in zip(director.datastore.endpoints, fleet, strict=True):
        endpoint.labels = given_labels
        endpoint.lora_active = frozenset(adapters[:1])
        endpoint.lora_waiting = frozenset(adapters[1:])
        for name, value in numbers.items():
            director.datastore.fleet.columns[name][endpoint.row] = value


def body_of(path: str, model: str, text: str) -> bytes:
    asked: dict[str, Any] = {"model": model}
    asked |= {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    return json.dumps(asked).encode()


def picked(director: Director, path: str, body: bytes, *, answered: bool) -> str:
    """Where the request goes, or the status that it is refused with.

    The whole conversation is held unless the client goes away before the answer.
    """
    session = ExtProc(director, max_body_bytes=1 << 20).session(lambda: None)
    session.receive(request_headers({**POST, ":path": path}).SerializeToString())
    session.receive(request_body(body, end=True).SerializeToString())
    replies = Replies(pb.ProcessingResponse.FromString(reply) for reply in session.take())
    refused = [reply.immediate_response.status.code for reply in replies if reply.HasField("immediate_response")]
    if refused:
        session.close("OK")
        return str(refused[0])
    if answered:
        session.receive(response_headers().SerializeToString())
        session.receive(response_body(b'{"usage": {"prompt_tokens": 3}}', end=True).SerializeToString())
    session.close("CANCELLED")
    return replies.headers_set("request_headers")["x-gateway-destination-endpoint"]


def failures(director: Director) -> list[str]:
    """Samples of the counter of plugins that raised."""
    page, _ = director.recorder.render()
    return [line for line in page.decode().splitlines() if line.startswith("llm_epp_plugin_errors_total{")]


@settings(max_examples=150)
@given(config=plain_configs(), fleet=fleets, asked=st.lists(requests, min_size=1, max_size=4))
def test_any_pipeline_picks_for_every_request(
    config: Config, fleet: list[Any], asked: list[tuple[str, str, str, bool]]
) -> None:
    addresses = [f"10.0.0.{i + 1}:8000" for i in range(len(fleet))]
    director = make_director(*addresses, config=json.dumps(config))
    fill(director, fleet)

    found = [picked(director, path, body_of(path, m, text), answered=answered) for path, m, text, answered in asked]

    assert [where for where in found if where.split(",")[0] not in addresses] == []
    assert failures(director) == []
    assert in_flight(director) == 0


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(config=rich_configs(), fleet=fleets, asked=st.lists(requests, min_size=1, max_size=4))
def test_any_pipeline_with_any_parameters_picks_or_refuses(
    config: Config, fleet: list[Any], asked: list[tuple[str, str, str, bool]]
) -> None:
    """Filters may keep nobody by their parameters, and parsers may not read what is asked: that is told, and nothing fails."""
    assume(not any(plugin["type"] in WAITING for plugin in config["plugins"]))
    addresses = [f"10.0.0.{i + 1}:8000" for i in range(len(fleet))]
    try:
        director = make_director(*addresses, config=json.dumps(config))
    except InvalidConfig:
        assume(False)
    fill(director, fleet)

    found = [picked(director, path, body_of(path, m, text), answered=answered) for path, m, text, answered in asked]

    assert [where for where in found if where.split(",")[0] not in (*addresses, "400", "429", "503")] == []
    assert failures(director) == []
    assert in_flight(director) == 0
