"""YAML or JSON text as a tree whose nodes know their line and column.

The tree is built from the parser's events and not by its composer: that one recurses, keeps the last of two equal keys and lets
aliases grow without bound. Whatever is wrong with the text becomes a problem; nothing is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec
import yaml

from epp.config.problems import Place, Problems
from epp.config.scalars import TAG_PREFIX, Value, plain_value, tagged_value

MAX_DEPTH: Final = 64
MAX_NODES: Final = 100_000  # aliases count as what they stand for


class Scalar(msgspec.Struct, frozen=True):
    value: Value
    line: int
    column: int


class Items(msgspec.Struct, frozen=True):
    items: list[Node]
    line: int
    column: int


class Field(msgspec.Struct, frozen=True):
    """One entry of a mapping: its value, and where its key stands."""

    value: Node
    line: int
    column: int


class Fields(msgspec.Struct, frozen=True):
    fields: dict[str, Field]
    line: int
    column: int


Node: TypeAlias = Scalar | Items | Fields

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_document(text: str, problems: Problems) -> Node | None:
    """The one document in `text`; None when it is empty, or when it cannot be read at all (then there is an error)."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        place = _place_of_offset(text, bad.start())
        problems.error(place, f"not valid YAML: the character U+{ord(bad.group()):04X} is not allowed")
        return None
    tree = _Tree(problems)
    try:
        for event in _events(text):
            tree.take(event)
    except _Refused as refused:
        problems.error(refused.place, str(refused))
        return None
    except yaml.MarkedYAMLError as error:
        problems.error(_place_of_error(error), f"not valid YAML: {_reason(error, text)}")
        return None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problems.error(Place(), f"not valid YAML: {error}")
        return None
    return tree.root


def node_of(value: Any) -> Node:
    """The opposite of `plain`, for values that were read as JSON elsewhere. Nobody knows their lines: 0."""
    if isinstance(value, dict):
        return Fields({str(name): Field(node_of(v), 0, 0) for name, v in value.items()}, 0, 0)
    if isinstance(value, list):
        return Items([node_of(v) for v in value], 0, 0)
    return Scalar(value, 0, 0)


def plain(node: Node) -> Any:
    """`node` as Python values. A null in a mapping means that the field is not there (as in the Go EPP) and is dropped."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [plain(n) for n in node.items]
    return {k: plain(f.value) for k, f in node.fields.items() if not is_null(f.value)}


def is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def kind_of(node: Node) -> str:
    """What `node` is, in the words of error messages."""
    if isinstance(node, Fields):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    value = node.value
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    shown = value if len(value) <= 40 else value[:37] + "..."
    return f'the text "{shown}"'


class _Refused(Exception):
    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Open:
    """A mapping or list whose end has not come yet."""

    __slots__ = ("anchor", "key", "keyless", "merged", "node", "size")

    def __init__(self, node: Items | Fields, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.size = 1
        self.key: Scalar | None = None  # the key that waits for its value
        self.keyless = False  # the next value belongs to a key that is not one
        self.merged: list[Node] = []  # values of `<<`


class _Tree:
    """Puts events together."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # None while the anchored node is open
        self._documents = 0

    def take(self, event: Any) -> None:
        place = _place_of_mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _Refused(place, "expected one document, found a second one")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, place)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), place)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event, place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()

    def _here(self, line: int, column: int) -> Place:
        """A place within the containers that are open."""
        path = ""
        for open_ in self._stack:
            if isinstance(open_.node, Items):
                path += f"[{len(open_.node.items)}]"
            elif open_.key is not None and isinstance(open_.key.value, str):
                path += f".{open_.key.value}"
        return Place(path.removeprefix("."), line, column)

    def _scalar(self, event: Any, place: Place) -> None:
        value: Value = event.value
        if event.tag not in (None, "!"):
            try:
                value = tagged_value(event.value, event.tag)
            except ValueError as error:
                self._problems.error(self._here(place.line, place.column), str(error))
        elif event.implicit[0]:
            value = plain_value(event.value)
        if isinstance(value, float) and not math.isfinite(value):
            self._problems.error(self._here(place.line, place.column), f"expected a finite number, got {event.value}")
            value = 0.0
        node = Scalar(value, place.line, place.column)
        if event.anchor:
            self._anchors[event.anchor] = (node, 1)
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.node, Fields) and top.key is None and not top.keyless:
            top.size += 1
            top.key = self._key(event, node)
        else:
            self._add(node, 1)

    def _key(self, event: Any, node: Scalar) -> Scalar:
        if not isinstance(node.value, str):
            message = f"expected text as key, got {kind_of(node)}; put it in quotes"
            self._problems.error(self._here(node.line, node.column), message)
        # A quoted "<<" is an ordinary key.
        text = None if event.value == "<<" and event.implicit[0] else event.value
        return Scalar(text, node.line, node.column)

    def _alias(self, anchor: str, place: Place) -> None:
        if anchor not in self._anchors:
            raise _Refused(place, f"nothing is anchored as &{anchor} before *{anchor}")
        target = self._anchors[anchor]
        if target is None:
            raise _Refused(place, f"*{anchor} refers to what it stands in")
        self._add(*target)

    def _open(self, event: Any, place: Place) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused(place, f"expected at most {MAX_DEPTH} levels of nesting")
        if event.tag not in (None, "!", f"{TAG_PREFIX}map", f"{TAG_PREFIX}seq"):
            self._problems.error(self._here(place.line, place.column), f"tag {event.tag} is not supported")
        node: Items | Fields
        if isinstance(event, yaml.MappingStartEvent):
            node = Fields({}, place.line, place.column)
        else:
            node = Items([], place.line, place.column)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor))

    def _close(self) -> None:
        done = self._stack.pop()
        if isinstance(done.node, Fields):
            for merged in done.merged:
                self._merge(done.node, merged)
        if done.anchor:
            self._anchors[done.anchor] = (done.node, done.size)
        self._add(done.node, done.size)

    def _add(self, node: Node, size: int) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        top.size += size
        if top.size > MAX_NODES:
            raise _Refused(
                Place("", node.line, node.column), f"expected at most {MAX_NODES} values, aliases spelled out"
            )
        if isinstance(top.node, Items):
            top.node.items.append(node)
        elif top.keyless:
            top.keyless = False
        elif top.key is None and isinstance(node, Scalar) and isinstance(node.value, str):  # an alias as key
            top.key = node
        elif top.key is None:
            self._problems.error(self._here(node.line, node.column), f"expected text as key, got {kind_of(node)}")
            top.keyless = True
        else:
            self._set(top, top.key, node)
            top.key = None

    def _set(self, into: _Open, key: Scalar, value: Node) -> None:
        assert isinstance(into.node, Fields)
        if not isinstance(key.value, str):
            into.merged.append(value)
            return
        earlier = into.node.fields.get(key.value)
        if earlier is not None:
            message = f"is there twice, first in line {earlier.line}"
            self._problems.error(self._here(key.line, key.column), message)
            return
        into.node.fields[key.value] = Field(value, key.line, key.column)

    def _merge(self, into: Fields, merged: Node) -> None:
        sources = merged.items if isinstance(merged, Items) else [merged]
        for source in sources:
            if not isinstance(source, Fields):
                message = f"expected a mapping to merge, got {kind_of(source)}"
                self._problems.error(self._here(source.line, source.column), message)
                continue
            for key, field in source.fields.items():
                into.fields.setdefault(key, field)


def _events(text: str) -> Iterator[Any]:
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    return events


def _place_of_mark(mark: Any) -> Place:
    return Place("", mark.line + 1, mark.column + 1)


def _place_of_error(error: yaml.MarkedYAMLError) -> Place:
    mark = error.problem_mark or error.context_mark
    return Place() if mark is None else _place_of_mark(mark)


def _place_of_offset(text: str, offset: int) -> Place:
    before = text[:offset]
    return Place("", before.count("\n") + 1, offset - before.rfind("\n"))


def _reason(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    lines = text.split("\n")
    if mark is not None and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return "a tab is not allowed here; indent with spaces"
    return ", ".join(part for part in (error.problem, error.context) if part)
