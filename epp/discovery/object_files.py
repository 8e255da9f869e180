"""Reads InferenceObjective and InferenceModelRewrite from YAML or JSON: text in, objects and problems out. No I/O.

    apiVersion: llm-d.ai/v1alpha2
    kind: InferenceModelRewrite
    metadata: {name: canary}
    spec:
      poolRef: {name: my-pool}
      rules:
      - matches: [{model: {value: food-review}, headers: [{name: x-beta, value: "yes"}]}]
        targets: [{modelRewrite: food-review-v2, weight: 30}, {modelRewrite: food-review-v1, weight: 70}]

A file holds any number of documents, or a `List` of `items` as `kubectl get -o yaml` writes it. Fields that nobody knows are
ignored with a warning, as an API server prunes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

import msgspec

from epp.api import NO_SLO, Slo
from epp.config.document import Fields, Node, is_null, node_of, read_document
from epp.config.problems import Place, Problem, Problems, Severity, did_you_mean
from epp.config.section import Section
from epp.data.rewrites import ModelRewrite, RewriteRule, RewriteTarget

GROUPS: Final = ("inference.networking.x-k8s.io", "llm-d.ai")
VERSIONS: Final = ("v1alpha1", "v1alpha2")
OBJECTIVE: Final = "InferenceObjective"
REWRITE: Final = "InferenceModelRewrite"
TTFT_ANNOTATION: Final = "llm-d.ai/slo-ttft-ms"
TPOT_ANNOTATION: Final = "llm-d.ai/slo-tpot-ms"
_ANNOTATIONS: Final = tuple(a.partition("/")[2] for a in (TTFT_ANNOTATION, TPOT_ANNOTATION))
MAX_FILE_BYTES: Final = 1 << 20
MAX_DOCUMENTS: Final = 1000
MAX_WEIGHT: Final = 1_000_000  # InferenceModelRewrite v1alpha2: spec.rules[].targets[].weight
_INT32: Final = 1 << 31

# A marker can stand at a line's start only (YAML 1.2, 9.1.2): not even a block of text may hold such a line.
_MARKER: Final = re.compile(r"^(?:---|\.\.\.)(?=[ \t\r\n]|\Z)", re.MULTILINE)
_DOCUMENT_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status", "items")

Identity: TypeAlias = tuple[str, str, str]  # kind, namespace, name
T = TypeVar("T")


class Objective(msgspec.Struct, frozen=True):
    """An InferenceObjective. No priority is the same as 0; below 0 is sheddable. The SLO stands in its annotations."""

    name: str
    priority: int | None = None
    namespace: str = ""
    slo: Slo = NO_SLO


Object: TypeAlias = Objective | ModelRewrite


class Pool(msgspec.Struct, frozen=True):
    """Whose objects are wanted. Without a name: everybody's, whatever their namespace and their poolRef."""

    name: str = ""
    namespace: str = "default"
    group: str = "inference.networking.k8s.io"


class ObjectFile(msgspec.Struct, frozen=True):
    """The objects that can be used, by identity (of two with the same one the last).

    `bad`: identities of objects that cannot. `unreadable`: there are more whose identity is not known.
    """

    objects: dict[Identity, Object]
    bad: frozenset[Identity] = frozenset()
    unreadable: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)


def parse_object_file(content: bytes, file: str, pool: Pool) -> ObjectFile:
    """`file` is the name that problems carry. Objects of other pools and other kinds are left out."""
    problems = Problems(file)
    if len(content) > MAX_FILE_BYTES:
        problems.error(Place(), f"expected at most {MAX_FILE_BYTES} bytes")
        return ObjectFile({}, unreadable=True, problems=problems.found)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.error(Place("", line, 1), f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}")
        return ObjectFile({}, unreadable=True, problems=problems.found)
    return _Reader(file, pool, problems).read(text)


def parse_object(value: Mapping[str, object], name: str, pool: Pool) -> ObjectFile:
    """The same for one object that has been read already; `name` is what problems call it."""
    return _Reader(name, pool, Problems(name)).read_value(node_of(value))


def keep_what_was(new: ObjectFile, old: Mapping[Identity, Object]) -> dict[Identity, Object]:
    """What a file gives after a change: `new`, and for each object that cannot be used its last good state.

    An object whose identity cannot be read may be any of the old ones that are missing: all of those stay then.
    """
    wanted = dict(new.objects)
    for identity, known in old.items():
        if new.unreadable or identity in new.bad:
            wanted.setdefault(identity, known)
    return wanted


def _documents(text: str) -> Iterator[str]:
    """Each document, at its own lines: what comes before it is replaced by empty lines."""
    starts = [0, *(m.start() for m in _MARKER.finditer(text))]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if not text.startswith("...", start):
            yield "\n" * text.count("\n", 0, start) + text[start:end]


class _Reader:
    """Collects what one file holds."""

    def __init__(self, file: str, pool: Pool, problems: Problems) -> None:
        self._file = file
        self._pool = pool
        self._problems = problems
        self._objects: dict[Identity, Object] = {}
        self._bad: set[Identity] = set()
        self._unreadable = False

    def read(self, text: str) -> ObjectFile:
        if _MARKER.subn("", text, MAX_DOCUMENTS + 1)[1] > MAX_DOCUMENTS:
            self._problems.error(Place(), f"expected at most {MAX_DOCUMENTS} documents")
            return ObjectFile({}, unreadable=True, problems=self._problems.found)
        for document in _documents(text):
            before = Problems(self._file)
            root = read_document(document, before)
            if before.failed:
                self._unreadable = True  # two equal keys, say: what is left of it may be something else
                self._take(before)
            elif root is not None and not is_null(root):
                self._read_node(root, Place("", root.line, root.column))
        return ObjectFile(self._objects, frozenset(self._bad), self._unreadable, self._problems.found)

    def read_value(self, node: Node) -> ObjectFile:
        self._read_node(node, Place())
        return ObjectFile(self._objects, frozenset(self._bad), self._unreadable, self._problems.found)

    def _take(self, problems: Problems) -> None:
        for p in problems.found:
            add = self._problems.error if p.severity is Severity.ERROR else self._problems.warning
            add(Place(p.path, p.line, p.column), p.message)

    def _read_node(self, node: Node, place: Place) -> None:
        problems = Problems(self._file)
        section = Section(node, place, problems)
        version, kind = section.text("apiVersion", required=True), section.text("kind", required=True)
        if version is None or kind is None:
            self._unreadable = True
        elif kind.endswith("List") and "items" in section.fields():
            for item, at in section.items("items"):
                self._read_node(item, at)
        elif kind not in (OBJECTIVE, REWRITE):
            hint = did_you_mean(kind, (OBJECTIVE, REWRITE))
            problems.warning(section.place("kind"), f"{kind} is not read here{hint}")
        elif not _is_known(version):
            self._unreadable = True
            known = " or ".join(f"{group}/{v}" for group in GROUPS for v in VERSIONS)
            problems.error(section.place("apiVersion"), f'expected {known}, got "{version}"')
        else:
            self._read_object(kind, section, problems)
        self._take(problems)

    def _read_object(self, kind: str, section: Section, problems: Problems) -> None:
        metadata, spec = _part(section, "metadata"), _part(section, "spec")
        name = metadata.text("name", required=True)
        namespace = metadata.text("namespace") or self._pool.namespace
        if not name or problems.failed:
            self._unreadable = True
            return
        identity = (kind, namespace, name)
        ours = _is_ours(spec, self._pool, namespace, problems)
        read: Callable[[Section, str, str], Object] = _objective if kind == OBJECTIVE else _rewrite
        found = read(spec, name, namespace)
        if isinstance(found, ModelRewrite):
            created_s = _created_s(metadata, problems)
            found = msgspec.structs.replace(found, created_s=created_s)
        else:
            found = msgspec.structs.replace(found, slo=_slo(metadata))
        _remark(section, problems, _DOCUMENT_FIELDS)
        if problems.failed:
            self._bad.add(identity)
        elif ours:
            if identity in self._objects:
                problems.warning(section.at, f"{kind} {namespace}/{name} is there more than once; the last one counts")
            self._objects[identity] = found


def _part(section: Section, key: str) -> Section:
    """A mapping of `section`; an empty one where it is left out."""
    at = section.place(key)
    return section.section(key) or Section(Fields({}, at.line, at.column), at, section.problems)


def _is_known(version: str) -> bool:
    group, _, number = version.partition("/")
    return group in GROUPS and number in VERSIONS


def _is_ours(spec: Section, pool: Pool, namespace: str, problems: Problems) -> bool:
    ref = spec.section("poolRef")
    if ref is None:
        return not pool.name or namespace == pool.namespace
    name = ref.text("name", required=True)
    group, kind = ref.text("group") or pool.group, ref.text("kind") or "InferencePool"
    _remark(ref, problems, ("name", "group", "kind"))
    if not pool.name:
        return True
    return (name, group, kind, namespace) == (pool.name, pool.group, "InferencePool", pool.namespace)


def _objective(spec: Section, name: str, namespace: str) -> Objective:
    priority = spec.integer("priority")
    if priority is not None and not -_INT32 <= priority < _INT32:
        spec.problems.error(spec.place("priority"), f"expected a 32-bit number, got {priority}")
    _remark(spec, spec.problems, ("priority", "poolRef"))
    return Objective(name, priority, namespace)


def _slo(metadata: Section) -> Slo:
    """Kinds of objects are the API group's: what it has no field for is an annotation."""
    annotations = _part(metadata, "annotations")
    for key in annotations.fields():
        group, _, name = key.partition("/")
        # Others may annotate objects with what they like.
        if group == "llm-d.ai" and name not in _ANNOTATIONS and (hint := did_you_mean(name, _ANNOTATIONS)):
            metadata.problems.warning(annotations.place(key), f"unknown annotation is ignored{hint}")
    ttft_ms = annotations.parsed(TTFT_ANNOTATION, _milliseconds)
    tpot_ms = annotations.parsed(TPOT_ANNOTATION, _milliseconds)
    return Slo(NO_SLO.ttft_ms if ttft_ms is None else ttft_ms, NO_SLO.tpot_ms if tpot_ms is None else tpot_ms)


def _milliseconds(value: str | int | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f'expected milliseconds, a number above 0, got "{value}"')
    return number


def _rewrite(spec: Section, name: str, namespace: str) -> ModelRewrite:
    rules = [made for rule in spec.sections("rules") for made in _rules(rule)]
    if not rules and not spec.problems.failed:
        spec.problems.error(spec.place("rules"), "expected at least one rule")
    _remark(spec, spec.problems, ("rules", "poolRef"))
    return ModelRewrite(name, tuple(rules), namespace=namespace)


def _rules(rule: Section) -> list[RewriteRule]:
    """One for each set of headers that the rule's matches ask for; no match: one for every request."""
    targets = tuple(target for t in rule.sections("targets") if (target := _target(t)) is not None)
    if not targets and not rule.problems.failed:
        rule.problems.error(rule.place("targets"), "expected at least one target")
    weighted = [t.weight is not None for t in targets]
    if any(weighted) and not all(weighted):
        rule.problems.warning(rule.place("targets"), "a target without weight beside weighted ones is never chosen")
    models: dict[tuple[tuple[str, str], ...], set[str]] = {}
    generic: list[tuple[tuple[str, str], ...]] = []
    matches = [_match(match) for match in rule.sections("matches")]
    for model, headers in matches:
        if model is None:
            generic.append(headers)
        else:
            models.setdefault(headers, set()).add(model)
    _remark(rule, rule.problems, ("matches", "targets"))
    if not matches:
        return [RewriteRule(targets)]
    exact = [RewriteRule(targets, frozenset(names), headers) for headers, names in models.items()]
    return exact + [RewriteRule(targets, headers=headers) for headers in dict.fromkeys(generic)]


def _target(section: Section) -> RewriteTarget | None:
    model = section.text("modelRewrite", required=True)
    weight = section.integer("weight")
    if weight is not None and not 1 <= weight <= MAX_WEIGHT:
        section.problems.error(section.place("weight"), f"expected a number in 1..{MAX_WEIGHT}, got {weight}")
    _remark(section, section.problems, ("modelRewrite", "weight"))
    return RewriteTarget(model, weight) if model else None


def _match(section: Section) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """The model (None: any) and the headers that a match asks for, by name."""
    model = section.section("model")
    value = _exact(model, "value") if model is not None else None
    headers: dict[str, str] = {}
    for header in section.sections("headers"):
        name = (header.text("name", required=True) or "").lower()
        if name in headers:
            section.problems.error(header.at, f"the header {name} is there twice")
        headers[name] = _exact(header, "value", "name") or ""
    _remark(section, section.problems, ("model", "headers"))
    return value, tuple(sorted(headers.items()))


def _exact(section: Section, key: str, *others: str) -> str | None:
    kind = section.text("type")
    if kind not in (None, "Exact"):
        section.problems.error(section.place("type"), f'expected Exact, got "{kind}"')
    value = section.text(key, required=True)
    _remark(section, section.problems, ("type", key, *others))
    return value


def _created_s(metadata: Section, problems: Problems) -> float:
    """0 where no age is written: such objects are the oldest, and their names decide among them."""
    text = metadata.text("creationTimestamp")
    if text is None:
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        problems.error(metadata.place("creationTimestamp"), f'expected a time like 2026-01-31T12:00:00Z, got "{text}"')
        return 0.0


def _remark(section: Section, problems: Problems, known: tuple[str, ...]) -> None:
    """Fields that nobody knows, which may be misspelt ones."""
    for key in section.fields():
        if key not in known:
            problems.warning(section.place(key), f"unknown field is ignored{did_you_mean(key, known)}")
