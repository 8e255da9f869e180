"""Engines as data: specs, configuration, labels, detection, deprecated flags."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from epp.api import ConfigError
from epp.api.metric_spec import MetricSpec, MetricSpecError, parse_spec
from epp.data.engines import CustomMetric, EngineConfig, load_engines, override_engine, parse_engine

PAGES = Path(__file__).parents[2] / "fixtures" / "metrics"


@pytest.mark.parametrize(
    ("text", "family", "labels"),
    [
        ("vllm:x", "vllm:x", ()),
        (" a ", "a", ()),
        ("a{}", "a", ()),
        ("a{b=c}", "a", (("b", "c"),)),
        ('a { b = "c d" , e=f, }', "a", (("b", "c d"), ("e", "f"))),
        (r'a{b="x\"}\\y"}', "a", (("b", 'x"}\\y'),)),
    ],
)
def test_a_spec_names_a_family_and_labels(text: str, family: str, labels: tuple[tuple[str, str], ...]) -> None:
    assert parse_spec(text) == MetricSpec(family, labels)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_spec_means_no_metric(text: str) -> None:
    assert parse_spec(text) is None


@pytest.mark.parametrize(
    ("text", "position"),
    [("1a", 0), ("a b", 2), ("a{", 2), ("a{b}", 2), ("a{b=c", 5), ("a{b=c}x", 6), ("a{b=c d=e}", 6), ("a{b=c,b=d}", 6)],
)
def test_a_bad_spec_is_refused_with_its_position(text: str, position: int) -> None:
    with pytest.raises(MetricSpecError) as caught:
        parse_spec(text)

    assert (caught.value.spec, caught.value.position) == (text, position)


def test_configuration_names_are_those_of_the_go_epp_and_one_of_ours() -> None:
    config = msgspec.convert(
        {
            "name": "mine",
            "queuedRequestsSpec": "q",
            "runningRequestsSpec": "r",
            "kvUsageSpec": "k",
            "loraSpec": "l",
            "cacheInfoSpec": "c",
            "cacheBlockSizeLabelName": "bs",
            "cacheNumBlocksLabelName": "nb",
            "cacheBlockSizeSpec": "",
            "cacheNumBlocksSpec": "",
            "kvUsedBlocksSpec": "u",
            "customMetrics": [{"attributeKey": "Temp", "metricSpec": "t{gpu=0}"}],
        },
        EngineConfig,
    )

    engine = parse_engine(config)

    assert engine.families == {"q", "r", "k", "u", "l", "c", "t"}
    assert (engine.block_size_label, engine.num_blocks_label) == ("bs", "nb")
    assert engine.custom == (("Temp", MetricSpec("t", (("gpu", "0"),))),)


def test_a_configured_engine_replaces_the_built_in_one_entirely() -> None:
    engines = load_engines([EngineConfig("vllm", queued_requests_spec="q")])

    assert engines.default.families == {"q"}


@pytest.mark.parametrize(
    "configs",
    [[EngineConfig("")], [EngineConfig("default")], [EngineConfig("x"), EngineConfig("x")], [EngineConfig("x", "a{")]],
)
def test_bad_engine_configurations_are_refused(configs: list[EngineConfig]) -> None:
    with pytest.raises(ConfigError, match=r"engine"):
        load_engines(configs)


def test_a_bad_custom_metric_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"customMetrics\[0\]"):
        parse_engine(EngineConfig("x", custom_metrics=(CustomMetric("k", "{"),)))


def test_an_unknown_default_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are"):
        load_engines(default_engine="vlm")


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({}, None),
        ({"llm-d.ai/engine-type": "sglang"}, "sglang"),
        ({"inference.networking.k8s.io/engine-type": "triton"}, "triton"),
        ({"llm-d.ai/engine-type": "sglang", "inference.networking.k8s.io/engine-type": "triton"}, "sglang"),
        ({"llm-d.ai/engine-type": "unheard-of"}, None),
        ({"llm-d.ai/engine-type": "unheard-of", "inference.networking.k8s.io/engine-type": "triton"}, "triton"),
    ],
)
def test_labels_name_the_engine(labels: dict[str, str], name: str | None) -> None:
    engine = load_engines().of_labels(labels)

    assert (engine and engine.name) == name


def test_another_label_key_can_be_configured() -> None:
    engine = load_engines(label_key="my/engine").of_labels({"my/engine": "sglang"})

    assert engine is not None
    assert engine.name == "sglang"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("vllm-0.32-loaded.txt", "vllm"),
        ("sglang.txt", "sglang"),
        ("trtllm-serve.txt", "trtllm-serve"),
        ("triton-tensorrt-llm.txt", "triton-tensorrt-llm"),
        ("triton.txt", "triton"),
        ("llamacpp-loaded.txt", "llama.cpp"),
        ("README.md", None),
    ],
)
def test_a_page_shows_its_engine(file: str, name: str | None) -> None:
    engine = load_engines().detect((PAGES / file).read_bytes())

    assert (engine and engine.name) == name


def test_deprecated_flags_change_the_default_engine_and_lose_their_quotes() -> None:
    engines = load_engines()

    engine = override_engine(engines.default, queued='"sglang:num_queue_reqs"', kv_usage="", lora='a{b="c"}')

    assert engine.waiting == MetricSpec("sglang:num_queue_reqs")
    assert engine.kv_usage is None
    assert engine.lora == MetricSpec("a", (("b", "c"),))
    assert engine.running == engines.default.running
    assert engines.with_default(engine).default is engine


def test_a_bad_flag_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="--kv-cache-usage-percentage-metric"):
        override_engine(load_engines().default, kv_usage="a b")
