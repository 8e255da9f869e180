"""What metrics pages mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.data.engines import CustomMetric, EngineConfig, load_engines, parse_engine
from epp.data.page import CacheInfo, LoraInfo, PageReader, Reading

PAGES = Path(__file__).parents[2] / "fixtures" / "metrics"
MINE = EngineConfig("mine", "q", "r", "k", "l", "c")


def read(page: bytes, config: EngineConfig = MINE) -> Reading:
    return PageReader(parse_engine(config)).read(page)


def read_file(name: str) -> Reading:
    page = (PAGES / name).read_bytes()
    engine = load_engines().detect(page)
    assert engine is not None
    return PageReader(engine).read(page)


@pytest.mark.parametrize(
    ("file", "load", "cache"),
    [
        ("vllm-0.32-loaded.txt", (1, 1, 0.05882352941176472), CacheInfo(32, 256)),
        ("vllm-0.32-idle.txt", (0, 0, 0), CacheInfo(32, 256)),
        ("vllm-data-parallel.txt", (1, 7, 0.5), CacheInfo(16, 2200)),
        ("sglang.txt", (2, 9, 0.28), CacheInfo(64, 1875)),
        ("trtllm-serve.txt", (5, 7, 0.5), CacheInfo(32, 4096)),
        ("triton-tensorrt-llm.txt", (3, 8, 0.4), CacheInfo(64, 6239)),
        ("triton.txt", (6, 51, None), CacheInfo()),
        ("llamacpp-loaded.txt", (6, 4, None), CacheInfo()),
    ],
)
def test_engines_pages(file: str, load: tuple[float | None, ...], cache: CacheInfo) -> None:
    reading = read_file(file)

    assert (reading.waiting_requests, reading.running_requests, reading.kv_cache_usage) == load
    assert reading.cache == cache


def test_without_a_fraction_the_used_blocks_tell_the_kv_usage() -> None:
    """Versions of Triton differ in which of them they tell."""
    page = (PAGES / "triton-tensorrt-llm.txt").read_bytes()
    without = b"".join(line for line in page.splitlines(keepends=True) if b'"fraction"' not in line)
    engine = load_engines().detect(without)
    assert engine is not None
    reader = PageReader(engine)

    assert reader.read(without).kv_cache_usage == 2525 / 6239
    assert reader.read(without.replace(b" 2525", b" 6239")).kv_cache_usage == 1.0
    assert reader.read(without.replace(b"max", b"most")).kv_cache_usage is None


def test_the_newest_lora_series_counts() -> None:
    assert read_file("vllm-0.32-loaded.txt").lora == LoraInfo(frozenset({"lora-a"}), frozenset(), 2)


def test_no_lora_series_means_no_adapters() -> None:
    assert read(b"q 1\n").lora == LoraInfo()


def test_an_engine_without_lora_says_nothing_about_adapters() -> None:
    assert read_file("sglang.txt").lora is None


def test_an_adapter_that_is_active_does_not_count_as_waiting_too() -> None:
    reading = read(b'l{running_lora_adapters="a, b,",waiting_lora_adapters="b,c",max_lora="4"} 1')

    assert reading.lora == LoraInfo(frozenset({"a", "b"}), frozenset({"c"}), 4)


def test_an_unreadable_lora_line_says_nothing() -> None:
    assert read(b'l{max_lora="4" 1\n').lora is None


def test_a_missing_family_is_absent() -> None:
    reading = read(b"q 3\n")

    assert (reading.waiting_requests, reading.running_requests, reading.kv_cache_usage) == (3, None, None)
    assert reading.shows_load


def test_a_page_without_the_engines_families_shows_no_load() -> None:
    assert not read(b"other 3\n").shows_load


def test_a_negative_count_is_absent() -> None:
    assert read(b"q -1\n").waiting_requests is None


def test_kv_usage_is_at_most_1() -> None:
    assert read(b"k 1.0000001\n").kv_cache_usage == 1


def test_one_unreadable_rank_makes_the_sum_absent() -> None:
    assert read(b'q{engine="0"} 1\nq{engine="1"} x\nr 2\n') == Reading(
        running_requests=2, lora=LoraInfo(), cache=CacheInfo()
    )


def test_a_rank_without_a_number_does_not_count() -> None:
    assert read(b'q{engine="0"} 1\nq{engine="1"} NaN\n').waiting_requests == 1


def test_a_series_that_is_there_twice_counts_once() -> None:
    assert read(b'q{a="1",b="2"} 5\nq{b="2",a="1"} 7\n').waiting_requests == 5


def test_of_a_repeated_series_the_latest_timestamp_counts() -> None:
    assert read(b'q{a="1"} 5 100\nq{a="1"} 7 200\n').waiting_requests == 7


def test_blocks_are_unknown_until_every_rank_has_them() -> None:
    page = (
        b'c{engine="0",block_size="16",num_gpu_blocks="100"} 1\nc{engine="1",block_size="16",num_gpu_blocks="None"} 1\n'
    )

    assert read(page).cache == CacheInfo(16, None)


def test_a_ranks_number_of_blocks_replaces_its_none() -> None:
    page = b'c{engine="0",num_gpu_blocks="None"} 1\nc{engine="0",num_gpu_blocks="100"} 1\n'

    assert read(page).cache == CacheInfo(None, 100)


def test_a_reader_follows_what_changes_between_pages() -> None:
    reader = PageReader(parse_engine(MINE))
    reader.read(b'c{block_size="16",num_gpu_blocks="1"} 1\nl{running_lora_adapters="a"} 1\n')

    reading = reader.read(b'c{block_size="32",num_gpu_blocks="2"} 1\nl{running_lora_adapters="b"} 1\n')

    assert reading.cache == CacheInfo(32, 2)
    assert reading.lora == LoraInfo(frozenset({"b"}))


def test_custom_metrics_are_read() -> None:
    custom = (CustomMetric("Temp", 't{gpu="1"}'), CustomMetric("Gone", "g"))

    reading = read(b't{gpu="0"} 50\nt{gpu="1"} 60\n', EngineConfig("mine", custom_metrics=custom))

    assert reading.custom == (("Temp", 60.0),)
