from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp_plugins.durations import seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200ms", 0.2),
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("10us", 1e-5),
        (".5s", 0.5),
    ],
)
def test_go_durations_are_read(text: str, value: float) -> None:
    assert seconds(text, parameter="p") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "s", "1s2", "1 s", "-1s", "1d", "infs"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^p: "):
        seconds(text, parameter="p")
