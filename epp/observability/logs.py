"""What a log line looks like: one readable line on a terminal, one JSON object elsewhere. Never the text of a prompt.

Loggers are those of the standard library, named `epp.*`. Facts go into fields, not into the message:
`log_event(log, DEBUG, "endpoint added", endpoint=name)`, or `extra={"fields": {...}}` where a traceback goes with it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from epp.observability.plain import encode_json

INFO: Final = logging.INFO
VERBOSE: Final = 15  # between INFO and DEBUG: one line per request
DEBUG: Final = logging.DEBUG
TRACE: Final = 5

_NAMES: Final = {logging.CRITICAL: "fatal", logging.ERROR: "error", logging.WARNING: "warn", INFO: "info"}
_FINER: Final = ((VERBOSE, "verbose"), (DEBUG, "debug"), (TRACE, "trace"))
_COLOURS: Final = {
    "fatal": "1;31",
    "error": "31",
    "warn": "33",
    "info": "32",
    "verbose": "36",
    "debug": "34",
    "trace": "35",
}
_RESERVED: Final = frozenset(("level", "ts", "logger", "msg", "error", "stacktrace"))


def level_for(verbosity: int) -> int:
    """The level of `-v`: 2 and less is INFO, 3 VERBOSE (a line per request), 4 DEBUG, 5 and more TRACE.

    The Go EPP logs its start at any verbosity, and its charts pass `-v 1`, so INFO is never hidden; below 0 only warnings
    are shown.
    """
    if verbosity < 0:
        return logging.WARNING
    return {0: INFO, 1: INFO, 2: INFO, 3: VERBOSE, 4: DEBUG}.get(verbosity, TRACE)


def level_name(level: int) -> str:
    if level >= logging.CRITICAL:
        return "fatal"
    for floor, name in (*_NAMES.items(), *_FINER):
        if level >= floor:
            return name
    return "trace"


def configure(verbosity: int, *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Write all logs to `stream` (standard error): `epp.*` as verbose as asked for, other libraries' from warnings on.

    `json` None: JSON unless the stream is a terminal. Calling it again replaces what the last call set up.
    """
    stream = stream if stream is not None else sys.stderr
    terminal = stream.isatty()
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream)
    handler.setFormatter(
        ConsoleFormatter(colour=terminal) if json is False or (json is None and terminal) else JsonFormatter()
    )
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("epp").setLevel(level_for(verbosity))


def log_event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """One event with its facts."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields})


class _Handler(logging.StreamHandler[TextIO]):
    """Known by its class, so that `configure` replaces its own handler and nobody else's."""


class JsonFormatter(logging.Formatter):
    """The keys of zap's production encoder (`level`, `ts`, `logger`, `msg`), then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "level": level_name(record.levelno),
            "ts": _timestamp(record.created),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[f"{name}_" if name in _RESERVED else name] = value
        error = _error(record)
        if error is not None:
            line["error"] = f"{type(error).__name__}: {error}"
            line["stacktrace"] = "".join(traceback.format_exception(error))
        return encode_json(line).decode()


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.000 info  message  key=value ... (logger)`; a traceback follows on lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        name = level_name(record.levelno)
        shown = f"{name:7}"
        if self._colour:
            shown = f"\x1b[{_COLOURS[name]}m{shown}\x1b[0m"
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        facts = "".join(f"  {key}={_shown(value)}" for key, value in _fields(record).items())
        line = f"{clock} {shown} {_one_line(record.getMessage())}{facts}  ({record.name})"
        error = _error(record)
        return line if error is None else f"{line}\n{''.join(traceback.format_exception(error)).rstrip()}"


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _one_line(text: str) -> str:
    # Whatever came from a client must not be able to start a line, nor to steer a terminal.
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else encode_json(value).decode()
    text = _one_line(text)
    return f'"{text}"' if not text or " " in text else text
