"""Reads one mapping field by field, and reports what is missing, of the wrong kind, or not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from epp.config.document import Fields, Items, Node, Scalar, is_null, kind_of
from epp.config.problems import Place, Problems, did_you_mean

T = TypeVar("T")


class Section:
    """A mapping at a path. Ask for every field that may be there, then call `done`.

    A field that is null is not there. A field of the wrong kind is reported and read as if it were not there.
    """

    def __init__(self, node: Node, place: Place, problems: Problems) -> None:
        self.at = place
        self.problems = problems
        self._asked: list[str] = []
        self._node = node if isinstance(node, Fields) else Fields({}, node.line, node.column)
        self._unreadable = not isinstance(node, Fields)
        if self._unreadable:
            problems.error(place, f"expected a mapping, got {kind_of(node)}")

    def place(self, key: str) -> Place:
        """Where the value of `key` stands; this section's own place when it is not there."""
        field = self._node.fields.get(key)
        path = f"{self.at.path}.{key}" if self.at.path else key
        return Place(path, field.value.line, field.value.column) if field else Place(path, self.at.line, self.at.column)

    def fields(self) -> tuple[str, ...]:
        """The fields that are there."""
        return tuple(k for k, f in self._node.fields.items() if not is_null(f.value))

    def node(self, key: str, *, required: bool = False) -> Node | None:
        self._asked.append(key)
        field = self._node.fields.get(key)
        if field is not None and not is_null(field.value):
            return field.value
        if required and not self._unreadable:
            self.problems.error(self.place(key), "is missing")
        return None

    def text(self, key: str, *, required: bool = False) -> str | None:
        node = self.node(key, required=required)
        if node is None:
            return None
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self._wrong(key, node, "text")
            return None
        if required and not node.value:
            self.problems.error(self.place(key), "is empty")
            return None
        return node.value

    def flag(self, key: str) -> bool | None:
        node = self.node(key)
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self._wrong(key, node, "true or false")
        return None

    def number(self, key: str) -> float | None:
        node = self.node(key)
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return float(node.value)
        self._wrong(key, node, "a number")
        return None

    def integer(self, key: str, *, required: bool = False) -> int | None:
        node = self.node(key, required=required)
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            return node.value
        self._wrong(key, node, "a whole number")
        return None

    def parsed(self, key: str, parse: Callable[[str | int | float], T]) -> T | None:
        """A scalar in a notation of its own. `parse` raises ValueError with what it expected."""
        node = self.node(key)
        if node is None:
            return None
        value = node.value if isinstance(node, Scalar) else None
        if value is None or isinstance(value, bool):
            self._wrong(key, node, "text or a number")
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.problems.error(self.place(key), str(error))
            return None

    def section(self, key: str) -> Section | None:
        node = self.node(key)
        return None if node is None else Section(node, self.place(key), self.problems)

    def items(self, key: str) -> Iterator[tuple[Node, Place]]:
        """The elements of a list and where they stand; none when it is not there."""
        node = self.node(key)
        if node is None:
            return
        if not isinstance(node, Items):
            self._wrong(key, node, "a list")
            return
        path = self.place(key).path
        for i, item in enumerate(node.items):
            yield item, Place(f"{path}[{i}]", item.line, item.column)

    def sections(self, key: str) -> Iterator[Section]:
        """The elements of a list of mappings."""
        for node, place in self.items(key):
            yield Section(node, place, self.problems)

    def done(self) -> None:
        """Report the fields that nobody asked for."""
        for key, field in self._node.fields.items():
            if key not in self._asked and not self.problems.full:
                path = f"{self.at.path}.{key}" if self.at.path else key
                place = Place(path, field.line, field.column)
                self.problems.error(place, f"unknown field{did_you_mean(key, self._asked)}")

    def _wrong(self, key: str, node: Node, expected: str) -> None:
        self.problems.error(self.place(key), f"expected {expected}, got {kind_of(node)}")
