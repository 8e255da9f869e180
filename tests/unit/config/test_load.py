"""Texts and files that cannot be read are problems, not exceptions."""

from __future__ import annotations

from pathlib import Path

from epp.config import load_default, load_file, load_text
from tests.support.configs import HEAD


def problems(path: Path) -> list[str]:
    return [str(p).removeprefix(f"{path}") for p in load_file(path).problems]


def test_a_file_is_read_with_its_name_in_the_problems(tmp_path: Path) -> None:
    path = tmp_path / "epp.yaml"
    path.write_text(HEAD + "extra: 1\n")

    assert problems(path) == [":3:1: extra: unknown field"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    loaded = load_file(tmp_path / "none.yaml")

    assert loaded.config is None
    assert str(loaded.problems[0]).endswith("none.yaml: cannot read the file: No such file or directory")


def test_a_directory(tmp_path: Path) -> None:
    assert problems(tmp_path) == [": cannot read the file: Is a directory"]


def test_a_name_that_no_file_can_have() -> None:
    assert "cannot read the file: embedded null byte" in str(load_file("a\0b").problems[0])


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")

    assert problems(path) == [": expected at most 1048576 bytes"]


def test_a_text_that_is_too_large() -> None:
    loaded = load_text("é" * (1 << 19) + "x")

    assert [str(p) for p in loaded.problems] == ["<text>: expected at most 1048576 bytes, got 1048577"]


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(HEAD.encode() + b"# caf\xe9\n")

    assert problems(path) == [":3:1: expected UTF-8 text, got the byte 0xe9"]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.encode())

    assert problems(path) == []


def test_an_empty_file_means_the_default_configuration_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing here\n")

    loaded = load_file(path)

    assert loaded.config == load_default().config
    assert problems(path) == [": warning: is empty: the built-in default configuration is used"]
