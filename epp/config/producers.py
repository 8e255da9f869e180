"""Data between plugins: creates the producers that are missing, checks who reads what, and puts producers in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from epp.api import DataProducer, Plugin
from epp.api.data import DEFAULT_PRODUCERS
from epp.config.draft import Draft
from epp.config.problems import did_you_mean
from epp.config.resolved import PluginSpec
from epp.config.roles import chooses, publishes_at, reads_at

Keys = dict[str, tuple[str, ...]]  # by plugin name


class DataFlow:
    """Which plugin publishes and which reads which data keys. Filled plugin by plugin."""

    def __init__(self, draft: Draft) -> None:
        self.produces: Keys = {}
        self.consumes: Keys = {}  # what is read if it is there, too
        self._needs: Keys = {}
        self._draft = draft

    def add(self, spec: PluginSpec, plugin: Plugin) -> None:
        """Ask a plugin. One that fails to answer is a problem."""
        try:
            self.produces[spec.name] = _keys(plugin.produces())
            self._needs[spec.name] = needed = _keys(plugin.consumes())
            self.consumes[spec.name] = (*needed, *_keys(plugin.consumes_if_published()))
        # The plugin may be third-party code.
        except (Exception, SystemExit) as error:
            self._draft.problems.error(spec.place, f'"{spec.name}" cannot say which data it uses: {error!r}')
            self._draft.broken.add(spec.name)

    def missing_producers(self) -> list[str]:
        """Types to create, for keys that are read, that nobody publishes, and that have a default producer."""
        published = {key for keys in self.produces.values() for key in keys}
        wanted: list[str] = []
        for key in dict.fromkeys(key for name in self._heard() for key in self._needs[name]):
            producer = key.partition("/")[2]
            taken = producer in self._draft.specs or producer in self._draft.left_out
            # One of this type under another name publishes under that name: it is there, and is not made again.
            there = taken or self._draft.of_type(producer) is not None
            if key not in published and _is_default(key) and not there:
                wanted.append(producer)
        return wanted

    def check(self) -> None:
        """Every key that is read has one publisher, which comes before its reader."""
        publisher: dict[str, str] = {}
        for name, keys in self.produces.items():
            for key in keys:
                if key in publisher:
                    message = f'"{name}" publishes {key}, and so does "{publisher[key]}"'
                    self._draft.problems.error(self._spec(name).place, message)
                publisher.setdefault(key, name)
        for name, keys in self.consumes.items():
            for key in keys:
                self._check_reader(name, key, publisher)

    def ordered(self) -> tuple[str, ...]:
        """Names of the data producers, each after those whose data it reads, else in configuration order.

        A cycle is reported, and gives an empty result.
        """
        names = [s.name for s in self._draft.of_kind(DataProducer)]
        publisher = {key: name for name in names for key in self.produces.get(name, ())}
        needs = {n: {publisher[k] for k in self.consumes.get(n, ()) if k in publisher} for n in names}
        ordered: list[str] = []
        while len(ordered) < len(names):
            ready = next((n for n in names if n not in ordered and needs[n] <= set(ordered)), None)
            if ready is None:
                self._report_cycle([n for n in names if n not in ordered], needs)
                return ()
            ordered.append(ready)
        return tuple(ordered)

    def _heard(self) -> list[str]:
        """Plugins but for mere producers of data that nobody reads: those need no input, and no producer is created for them.

        In-flight accounting runs in every configuration; alone it must not bring prefix hashing with it.
        """
        heard = dict.fromkeys(n for n in self.consumes if not self.produces[n] or chooses(self._spec(n).cls))
        while True:
            read = {key for name in heard for key in self.consumes[name]}
            more = [n for n, keys in self.produces.items() if n not in heard and read.intersection(keys)]
            if not more:
                return [n for n in self.consumes if n in heard]
            heard |= dict.fromkeys(more)

    def _check_reader(self, name: str, key: str, publisher: Mapping[str, str]) -> None:
        reader = self._spec(name)
        if key not in publisher:
            if key not in self._needs[name]:
                self._warn_of_unpublished(reader, key)
            elif name in self._heard() or not _is_default(key):
                self._report_unpublished(reader, key)
            return
        provider = self._spec(publisher[key])
        if publishes_at(provider.cls) > reads_at(reader.cls):
            message = f'"{name}" reads {key}, which "{provider.name}" publishes only later in a request'
            self._draft.problems.error(reader.place, message)

    def _warn_of_unpublished(self, reader: PluginSpec, key: str) -> None:
        if not _is_default(key):
            message = f'"{reader.name}" reads {key}, which no plugin publishes: it does without'
            self._draft.problems.warning(reader.place, message)

    def _report_unpublished(self, reader: PluginSpec, key: str) -> None:
        kind, _, producer = key.partition("/")
        if producer in self._draft.broken:
            return
        message = f'"{reader.name}" reads {key}, which no plugin publishes'
        sources = [p for keys in self.produces.values() for p in keys if p.startswith(f"{kind}/")]
        if sources:
            message += f" (there is {', '.join(sources)})"
        elif producer in self._draft.specs:
            message += f'; "{producer}" is of another type'
        elif not producer:
            message += "; keys are KIND/PRODUCER"
        else:
            message += f'; add a plugin named "{producer}"{did_you_mean(producer, self._draft.specs)}'
        self._draft.problems.error(reader.place, message)

    def _report_cycle(self, left: Sequence[str], needs: Mapping[str, set[str]]) -> None:
        path = [left[0]]
        while True:
            following = next(n for n in left if n in needs[path[-1]])
            if following in path:
                cycle = [*path[path.index(following) :], following]
                break
            path.append(following)
        message = f"data producers wait for each other: {' reads from '.join(cycle)}"
        self._draft.problems.error(self._spec(cycle[0]).place, message)

    def _spec(self, name: str) -> PluginSpec:
        return self._draft.specs[name]


def fill_in(draft: Draft, flow: DataFlow, create: Callable[[PluginSpec], Plugin | None]) -> None:
    """Ask all plugins for their data keys, and create default producers until none is missing."""
    asked: set[str] = set()
    while True:
        for spec in list(draft.specs.values()):
            if spec.name not in asked:
                asked.add(spec.name)
                plugin = create(spec)
                if plugin is not None:
                    flow.add(spec, plugin)
        added = [t for t in flow.missing_producers() if draft.add_default(t) is not None]
        if not added:
            return


def _is_default(key: str) -> bool:
    """`key` is what the default producer of its kind publishes."""
    kind, _, producer = key.partition("/")
    return DEFAULT_PRODUCERS.get(kind) == producer


def _keys(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(key) for key in keys)
