from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest

from epp.observability.logs import DEBUG, INFO, TRACE, VERBOSE, configure, log_event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, epp = logging.getLogger(), logging.getLogger("epp")
    before = list(root.handlers), root.level, epp.level
    yield
    root.handlers[:], root.level, epp.level = before[0], before[1], before[2]


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_file_gets_one_json_object_per_line() -> None:
    stream = io.StringIO()
    configure(2, stream=stream)

    log_event(logging.getLogger("epp.test"), INFO, "endpoint added", endpoint="a", row=3)

    [line] = lines(stream)
    assert {k: line[k] for k in ("level", "logger", "msg", "endpoint", "row")} == {
        "level": "info",
        "logger": "epp.test",
        "msg": "endpoint added",
        "endpoint": "a",
        "row": 3,
    }
    assert str(line["ts"]).endswith("Z")


def test_a_field_cannot_take_the_place_of_the_message() -> None:
    stream = io.StringIO()
    configure(2, stream=stream)

    log_event(logging.getLogger("epp.test"), INFO, "true", msg="false", level="false")

    assert lines(stream)[0]["msg"] == "true"
    assert lines(stream)[0]["msg_"] == "false"


def test_values_that_json_lacks_do_not_lose_the_line() -> None:
    stream = io.StringIO()
    configure(2, stream=stream)

    log_event(
        logging.getLogger("epp.test"), INFO, "m", scores=np.array([1.0, 0.5]), inf=float("inf"), odd=object(), s={1}
    )

    assert lines(stream)[0]["scores"] == [1.0, 0.5]
    assert lines(stream)[0]["inf"] is None


def test_text_that_is_no_unicode_does_not_lose_the_line() -> None:
    # Header bytes are decoded with surrogateescape; they may come as a request id.
    stream = io.StringIO()
    configure(2, stream=stream)

    log_event(logging.getLogger("epp.test"), INFO, "m", id="\udcff")

    assert [(line["msg"], line["id"]) for line in lines(stream)] == [("m", "\\udcff")]


def test_an_error_carries_its_traceback() -> None:
    stream = io.StringIO()
    configure(2, stream=stream)

    try:
        raise ValueError("broken")
    except ValueError as error:
        logging.getLogger("epp.test").error("plugin failed", exc_info=error, extra={"fields": {"plugin": "p"}})

    [line] = lines(stream)
    assert (line["level"], line["error"], line["plugin"]) == ("error", "ValueError: broken", "p")
    assert "Traceback" in str(line["stacktrace"])


def test_a_terminal_gets_one_coloured_line_whatever_a_client_sent() -> None:
    stream = Terminal()
    configure(2, stream=stream)

    log_event(logging.getLogger("epp.test"), INFO, "routed", model="a\nfake line\x1b[2J", n=1.5)

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b[32minfo" in text
    assert "\x1b[2J" not in text
    assert "n=1.5" in text


@pytest.mark.parametrize(("json_asked", "terminal", "is_json"), [(True, True, True), (False, False, False)])
def test_the_format_can_be_forced(json_asked: bool, terminal: bool, is_json: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    configure(2, json=json_asked, stream=stream)

    logging.getLogger("epp.test").info("m")

    assert stream.getvalue().startswith("{") is is_json


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-1, ["warn"]),
        (0, ["warn", "info"]),
        (1, ["warn", "info"]),
        (2, ["warn", "info"]),
        (3, ["warn", "info", "verbose"]),
        (4, ["warn", "info", "verbose", "debug"]),
        (5, ["warn", "info", "verbose", "debug", "trace"]),
        (9, ["warn", "info", "verbose", "debug", "trace"]),
    ],
)
def test_verbosity_decides_which_levels_are_written(verbosity: int, shown: list[str]) -> None:
    stream = io.StringIO()
    configure(verbosity, stream=stream)

    for level in (logging.WARNING, INFO, VERBOSE, DEBUG, TRACE):
        logging.getLogger("epp.test").log(level, "m")

    assert [line["level"] for line in lines(stream)] == shown


def test_other_libraries_are_heard_from_warnings_on() -> None:
    stream = io.StringIO()
    configure(5, stream=stream)

    logging.getLogger("aiohttp.access").info("chatter")
    logging.getLogger("asyncio").warning("slow callback")

    assert [line["msg"] for line in lines(stream)] == ["slow callback"]


def test_configuring_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(2, stream=first)
    configure(2, stream=second)

    logging.getLogger("epp.test").info("m")

    assert (first.getvalue(), len(lines(second))) == ("", 1)
