"""Reads an endpoints file (file-discovery): YAML or JSON text in, endpoints and problems out. No I/O.

    endpoints:
    - {name: a, address: 10.0.0.1, port: 8000, namespace: default, labels: {key: value}}

`name`, `address` (IPv4 or IPv6) and `port` (number or text) are required.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import reprlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import yaml

from epp.data.endpoint_spec import EndpointSpec, Key

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
_FIELDS: Final = ("name", "address", "port", "namespace", "labels")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class EndpointFileError(Exception):
    """The file as a whole cannot be used."""


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one entry. `fatal`: the entry is not used. `key` is None when not even its identity can be read."""

    index: int
    reason: str
    fatal: bool = True
    key: Key | None = None

    def __str__(self) -> str:
        return f"endpoints[{self.index}]: {self.reason}"


class EndpointFile(msgspec.Struct, frozen=True):
    """The entries that can be used, by identity (of two with the same one the last), and what is wrong with the others."""

    specs: dict[Key, EndpointSpec]
    problems: tuple[Problem, ...]

    @property
    def bad_entries(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.fatal)


def parse_endpoint_file(data: bytes) -> EndpointFile:
    """Raises EndpointFileError when it is too large, is not YAML, or has no list `endpoints`."""
    if len(data) > MAX_FILE_BYTES:
        raise EndpointFileError(f"it has {len(data)} bytes; at most {MAX_FILE_BYTES} are allowed")
    document = _load(data)
    entries = document.get("endpoints") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise EndpointFileError("expected a mapping with a list `endpoints` (an empty pool is `endpoints: []`)")
    specs: dict[Key, EndpointSpec] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        found = _parse_entry(index, entry)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        problems += _remarks(index, entry)
        if found.key in specs:
            text = f"{found.namespace}/{found.name} is there more than once; the last one counts"
            problems.append(Problem(index, text, fatal=False))
        specs[found.key] = found
    return EndpointFile(specs, tuple(problems))


def keep_what_was(new: EndpointFile, old: Mapping[Key, EndpointSpec]) -> dict[Key, EndpointSpec]:
    """What the pool shall be after a reload: `new`, and for each entry that cannot be used its last good state.

    An entry whose identity cannot be read may be any of the old ones that are missing: all of those stay then.
    """
    wanted = dict(new.specs)
    unreadable = any(problem.key is None for problem in new.bad_entries)
    kept = old.keys() if unreadable else {problem.key for problem in new.bad_entries}
    for key, spec in old.items():
        if key in kept:
            wanted.setdefault(key, spec)
    return wanted


def _load(data: bytes) -> Any:
    if data.lstrip()[:1] == b"{":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(data)  # not all JSON is YAML: tabs
    try:
        _check_depth(data)
        return yaml.load(data, Loader=_LOADER)
    except Exception as error:  # PyYAML raises much beside YAMLError on bad input: ValueError, RecursionError, ...
        raise EndpointFileError(f"it is not YAML: {' '.join(str(error).split())}") from error


def _check_depth(data: bytes) -> None:
    """Raises EndpointFileError for nesting that no endpoints file has: libyaml's loader would overflow the C stack."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise EndpointFileError(f"it is nested more than {MAX_DEPTH} deep")


def _parse_entry(index: int, entry: Any) -> EndpointSpec | Problem:
    if not isinstance(entry, dict):
        return Problem(index, "expected a mapping with name, address and port")
    name, namespace = entry.get("name"), entry.get("namespace", "default")
    if not isinstance(name, str) or not name:
        return Problem(index, f"name: expected text, found {_brief(name)}")
    if not isinstance(namespace, str) or not namespace:
        return Problem(index, f"namespace: expected text, found {_brief(namespace)}")
    key = (namespace, name)
    address = _address(entry.get("address"))
    if address is None:
        return Problem(index, f"address: expected an IP address, found {_brief(entry.get('address'))}", key=key)
    port = _port(entry.get("port"))
    if port is None:
        return Problem(index, f"port: expected a number in 1..65535, found {_brief(entry.get('port'))}", key=key)
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict):
        return Problem(index, f"labels: expected a mapping, found {_brief(labels)}", key=key)
    for label, value in labels.items():
        if not isinstance(label, str) or not isinstance(value, str):
            reason = f"labels: expected text (quote numbers), found {_brief(label)}: {_brief(value)}"
            return Problem(index, reason, key=key)
    return EndpointSpec(name, address, port, namespace=namespace, labels=labels)


def _remarks(index: int, entry: dict[Any, Any]) -> list[Problem]:
    """Fields that nobody knows, which may be misspelt ones."""
    unknown = [str(field) for field in entry if field not in _FIELDS]
    return [Problem(index, f"unknown field {_brief(field)} is ignored", fatal=False) for field in unknown]


def _address(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return ipaddress.ip_address(value.strip()).compressed
    except ValueError:
        return None


def _port(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        return None
    return value


def _brief(value: Any) -> str:
    """A value for a message; aliases can make a small file hold a collection of any size."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return reprlib.repr(value)
