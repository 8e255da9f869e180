"""The metrics page, read by the official parser."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp.sim.config import SimConfig
from epp.sim.page import MetricsPage, number
from epp.sim.stats import Gauges, Stats, token_bounds


def page_of(config: SimConfig, stats: Stats) -> MetricsPage:
    return MetricsPage(config, stats, created_s=1_795_228_039.0, epoch_offset_s=1_795_228_000.0)


def samples(page: MetricsPage) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.render().decode())
        for sample in family.samples
    }


def labels(**extra: str) -> frozenset[tuple[str, str]]:
    return frozenset({"engine": "0", "model_name": "sim-model", **extra}.items())


def test_gauges_carry_engine_and_model() -> None:
    stats = Stats(1000)
    stats.publish(Gauges(running=3, waiting=2, deferred=1, kv_usage=0.25))

    found = samples(page_of(SimConfig(), stats))

    assert found["vllm:num_requests_running", labels()] == 3
    assert found["vllm:num_requests_waiting", labels()] == 2
    assert found["vllm:num_requests_waiting_by_reason", labels(reason="deferred")] == 1
    assert found["vllm:kv_cache_usage_perc", labels()] == 0.25
    assert found["vllm:request_success_total", labels(finished_reason="length")] == 0


def test_histogram_buckets_are_cumulative() -> None:
    stats = Stats(1000)
    for seconds in (0.004, 0.004, 0.3, 9999):
        stats.ttft.observe(seconds)

    found = samples(page_of(SimConfig(), stats))

    assert found["vllm:time_to_first_token_seconds_bucket", labels(le="0.001")] == 0
    assert found["vllm:time_to_first_token_seconds_bucket", labels(le="0.005")] == 2
    assert found["vllm:time_to_first_token_seconds_bucket", labels(le="0.5")] == 3
    assert found["vllm:time_to_first_token_seconds_bucket", labels(le="+Inf")] == 4
    assert found["vllm:time_to_first_token_seconds_count", labels()] == 4


def test_past_adapter_sets_stay_and_the_largest_time_is_the_current_one() -> None:
    stats = Stats(1000)
    stats.lora_seen[("a", "b")] = 10.0
    stats.lora_seen[()] = 11.5

    found = samples(page_of(SimConfig(loras=("a", "b"), max_loras=2), stats))
    info = {dict(key[1])["running_lora_adapters"]: value for key, value in found.items() if "lora" in key[0]}
    both = frozenset({"max_lora": "2", "running_lora_adapters": "a,b", "waiting_lora_adapters": "a,b"}.items())

    assert info == {"a,b": 1_795_228_010.0, "": 1_795_228_011.5}
    assert ("vllm:lora_requests_info", both) in found


def test_a_server_without_adapters_says_nothing_of_them() -> None:
    assert b"lora" not in page_of(SimConfig(), Stats(1000)).render()


def test_the_cache_configuration_is_in_labels() -> None:
    found = samples(page_of(SimConfig(blocks=256, block_size=32), Stats(1000)))
    info = next(dict(key[1]) for key in found if key[0] == "vllm:cache_config_info")

    assert (info["num_gpu_blocks"], info["block_size"], info["engine"]) == ("256", "32", "0")
    assert "model_name" not in info


def test_the_page_changes_only_when_something_was_published() -> None:
    stats = Stats(1000)
    page = page_of(SimConfig(), stats)
    before = page.render()
    stats.prompt_tokens = 5
    assert page.render() is before

    stats.publish(Gauges(running=1))

    assert page.render() != before


def test_padding_makes_the_page_longer_by_about_that_much() -> None:
    plain = page_of(SimConfig(), Stats(1000)).render()
    padded = page_of(SimConfig(metrics_padding_bytes=30_000), Stats(1000)).render()

    assert 30_000 <= len(padded) - len(plain) < 30_200
    assert list(text_string_to_metric_families(padded.decode()))


def test_a_model_name_with_quotes_stays_one_label() -> None:
    found = samples(page_of(SimConfig(model='a"b\\c'), Stats(1000)))

    assert any(dict(key[1]).get("model_name") == 'a"b\\c' for key in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (4, "4.0"), (0.25, "0.25"), (999_999, "999999.0"), (1e6, "1e+06"), (2818464, "2.818464e+06")],
)
def test_numbers_look_as_the_official_client_prints_them(value: float, text: str) -> None:
    assert number(value) == text


def test_token_buckets_end_at_the_context_length() -> None:
    assert token_bounds(4096) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
