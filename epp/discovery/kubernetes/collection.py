"""What is known of one kind of objects, from lists and events in whatever order they come. Pure.

A list is the truth: what it does not hold is gone. An event counts unless it is older than what is known of its object. An
object that cannot be read is as good as gone, so that what is known depends on the objects only, not on how we heard of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from epp.discovery.kubernetes.objects import Meta, Object, ObjectKey

_log: Final = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
Changes: TypeAlias = dict[ObjectKey, T | None]
"""What is different from before, by key; None: the object is gone."""

T_co = TypeVar("T_co", bound=Object, covariant=True)


class Decoder(Protocol[T_co]):
    """Makes objects of their JSON: `msgspec.json.Decoder`, or what stands for one."""

    def decode(self, raw: msgspec.Raw, /) -> T_co:
        """Raises msgspec.DecodeError."""
        ...


MAX_TOMBSTONES: Final = 10_000

_identities: Final = msgspec.json.Decoder(Object)


class Collection(Generic[T]):
    """Objects of one kind by key. `revision` is where the next watch begins; "" when only a list can tell."""

    def __init__(self, kind: str, decoder: Decoder[T]) -> None:
        self.kind = kind
        self.objects: dict[ObjectKey, T] = {}
        self.revision = ""
        self.malformed = 0  # objects that could not be read, counted each time
        self.outdated = 0  # events that were older than what was known
        self._decoder = decoder
        self._listed: dict[ObjectKey, T] = {}
        self._list_version = 0  # what is not newer is in the list, or was gone when it was made
        # Deleted objects and when: an older event that comes later must not bring one back.
        self._tombstones: dict[ObjectKey, int] = {}
        self._complaints: dict[ObjectKey, str] = {}

    # --- a list ----------------------------------------------------------------------------------------------------------

    def begin_list(self) -> None:
        self._listed = {}

    def add_page(self, items: Iterable[msgspec.Raw]) -> None:
        for raw in items:
            key, _, obj = self._read(raw)
            if key is not None and obj is not None:
                self._listed[key] = obj

    def end_list(self, revision: str) -> Changes[T]:
        """The list was whole: it takes the place of what was known."""
        before, after = self.objects, self._listed
        changes: Changes[T] = {key: None for key in before if key not in after}
        for key, obj in after.items():
            known = before.get(key)
            if known is None or known.metadata.resource_version != obj.metadata.resource_version:
                changes[key] = obj
        self.objects = after
        self.revision = revision
        self._list_version = _number(revision) or 0
        self._listed = {}
        self._tombstones.clear()
        return changes

    def forget(self) -> Changes[T]:
        """There are no such objects any more: the kind is gone."""
        self.begin_list()
        return self.end_list("")

    # --- events ----------------------------------------------------------------------------------------------------------

    def apply(self, type: str, raw: msgspec.Raw, changes: Changes[T]) -> None:
        """Take an event in; what it changes goes into `changes`."""
        if type == "BOOKMARK":
            self._bookmark(raw)
            return
        key, version, obj = self._read(raw)
        if key is None:
            return
        if version is not None and self._is_old(key, version, deleted=type == "DELETED"):
            self.outdated += 1
            return
        self._advance(version)
        if type != "DELETED" and obj is not None:
            self.objects[key] = obj
            self._tombstones.pop(key, None)
            changes[key] = obj
            return
        if version is not None:
            self._bury(key, version)
        if self.objects.pop(key, None) is not None:
            changes[key] = None

    def _is_old(self, key: ObjectKey, version: int, *, deleted: bool) -> bool:
        """What the event tells is known, or was so and is not any more."""
        known = self.objects.get(key)
        newest = _number(known.metadata.resource_version) if known is not None else self._tombstones.get(key)
        if deleted:
            # It may carry the version of the object's last change; an older one is of an object that has been made again.
            return newest is not None and version < newest
        return version <= self._list_version or (newest is not None and version <= newest)

    def _bookmark(self, raw: msgspec.Raw) -> None:
        """A bookmark's object has no name: nothing but a version."""
        try:
            version = msgspec.json.decode(raw, type=_Bookmark).metadata.resource_version
        except msgspec.DecodeError:
            self.malformed += 1
            return
        self._advance(_number(version))

    def _advance(self, version: int | None) -> None:
        """A watch begins again behind the newest event, whatever came after it."""
        if version is not None and version > (_number(self.revision) or 0):
            self.revision = str(version)

    def _bury(self, key: ObjectKey, version: int) -> None:
        if len(self._tombstones) >= MAX_TOMBSTONES:
            for old in list(self._tombstones)[: MAX_TOMBSTONES // 2]:
                del self._tombstones[old]
        self._tombstones.pop(key, None)
        self._tombstones[key] = version

    # --- objects ---------------------------------------------------------------------------------------------------------

    def _read(self, raw: msgspec.Raw) -> tuple[ObjectKey | None, int | None, T | None]:
        """Key, version and object; no object when it cannot be read, no key when not even that."""
        try:
            obj = self._decoder.decode(raw)
        except msgspec.DecodeError as error:
            metadata = self._refuse(raw, error)
            return (None, None, None) if metadata is None else (metadata.key, _number(metadata.resource_version), None)
        key = obj.metadata.key
        if self._complaints:
            self._complaints.pop(key, None)
        return key, _number(obj.metadata.resource_version), obj

    def _refuse(self, raw: msgspec.Raw, error: msgspec.DecodeError) -> Meta | None:
        self.malformed += 1
        try:
            metadata = _identities.decode(raw).metadata
        except msgspec.DecodeError:
            self._complain(("", ""), f"{self.kind} without a name is left out: {error}")
            return None
        where = f"{metadata.namespace}/{metadata.name}"
        self._complain(metadata.key, f"{self.kind} {where} cannot be read and is left out: {error}")
        return metadata

    def _complain(self, key: ObjectKey, text: str) -> None:
        """Log it, once for as long as it stays the same."""
        if self._complaints.get(key) != text:
            if len(self._complaints) >= MAX_TOMBSTONES:
                self._complaints.clear()
            self._complaints[key] = text
            _log.warning("%s", text)


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


def _number(version: str) -> int | None:
    """Versions grow: they are etcd's revisions, and comparable by contract since Kubernetes 1.35. None: one that is not."""
    return int(version) if version.isascii() and version.isdigit() else None
