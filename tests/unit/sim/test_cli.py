"""From arguments to server configurations, as a subcommand of another parser."""

from __future__ import annotations

import argparse

from epp.sim.cli import add_parser, configurations, run


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="epp")
    add_parser(parser.add_subparsers())
    return parser.parse_args(["sim", *arguments])


def test_the_subcommand_carries_its_function() -> None:
    assert parsed().run is run


def test_servers_get_successive_ports_and_numbered_names() -> None:
    configs = configurations(parsed("--count", "3", "--port", "8000", "--name", "demo"))

    assert [(config.name, config.port) for config in configs] == [("demo-0", 8000), ("demo-1", 8001), ("demo-2", 8002)]


def test_a_slow_server_is_slower_than_the_others_by_its_factor() -> None:
    configs = configurations(parsed("--count", "3", "--speed", "2", "--slow", "1=4", "--slow", "2=0.5"))

    assert [config.cost.speed for config in configs] == [2, 0.5, 4]


def test_flags_reach_the_engine() -> None:
    arguments = ("--prefill-ms-per-1k-tokens", "50", "--decode-ms", "5", "--blocks", "100", "--block-size", "8")
    (config,) = configurations(parsed(*arguments, "--lora", "a", "--lora", "b", "--max-loras", "1"))

    assert (config.cost.prefill_ms_per_1k_tokens, config.cost.base_ms) == (50, 5)
    assert (config.blocks, config.block_size, config.context_tokens) == (100, 8, 792)
    assert (config.loras, config.max_loras) == (("a", "b"), 1)
