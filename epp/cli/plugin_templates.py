"""The texts that `epp new-plugin` writes. `$name` is the type, `$module` the module, `$cls` the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PYPROJECT: Final = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "The plugin type $name for llm-epp"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["llm-epp"]

[project.entry-points."epp.plugins"]
$name = "$module:$cls"

[tool.hatch.build.targets.wheel]
include = ["$module.py"]
"""

_README: Final = """\
# $name

A $kind for llm-epp. Install it beside the service: `pip install .`
USE
Try it: `python -m pytest`, then `epp plugins $name` and `epp check FILE`.
"""

README: Final[Mapping[str, str]] = {
    "scorer": _README.replace(
        "USE", "In a configuration: `- type: $name` in `plugins`, `- {pluginRef: $name, weight: 2}` in a profile."
    ),
    "filter": _README.replace(
        "USE", "In a configuration: `- type: $name` in `plugins`, `- pluginRef: $name` in a profile."
    ),
    "producer": _README.replace(
        "USE", "In a configuration: `- type: $name` in `plugins`; whoever names its key in `consumes()` reads it."
    ),
}

_SCORER: Final = '''\
"""$name: the fewest running requests are best."""

from typing import Annotated

import msgspec

from epp.api import RUNNING_REQUESTS, Candidates, Floats, Request, Scorer


class $cls(Scorer):
    """1 - running requests / `fullAt`, at least 0."""

    type = "$name"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        full_at: Annotated[int, msgspec.Meta(gt=0)] = 100  # requests

    def score(self, request: Request, candidates: Candidates) -> Floats:
        scores: Floats = 1 - candidates.column(RUNNING_REQUESTS) / self.params.full_at
        return scores.clip(0, 1)
'''

_FILTER: Final = '''\
"""$name: endpoints that are not too busy."""

from typing import Annotated

import msgspec

from epp.api import RUNNING_REQUESTS, Candidates, Filter, Mask, Request


class $cls(Filter):
    """Keeps endpoints that run fewer than `fullAt` requests."""

    type = "$name"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        full_at: Annotated[int, msgspec.Meta(gt=0)] = 100  # requests

    def keep(self, request: Request, candidates: Candidates) -> Mask:
        kept: Mask = candidates.column(RUNNING_REQUESTS) < self.params.full_at
        return kept
'''

_PRODUCER: Final = '''\
"""$name: publishes the value of a request header."""

from collections.abc import Sequence

import msgspec

from epp.api import Candidates, DataProducer, Request


class $cls(DataProducer):
    """Publishes the header `headerName`, empty where the request has none, under `HeaderValue/NAME`."""

    type = "$name"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        header_name: str = "x-tenant"

    def produces(self) -> Sequence[str]:
        return (f"HeaderValue/{self.name}",)

    def produce(self, request: Request, candidates: Candidates) -> None:
        request.data[f"HeaderValue/{self.name}"] = request.headers.get(self.params.header_name, "")
'''

MODULES: Final[Mapping[str, str]] = {"scorer": _SCORER, "filter": _FILTER, "producer": _PRODUCER}

_TEST: Final = '''\
import logging
import random
from time import monotonic
from unittest.mock import Mock

from epp.api import RUNNING_REQUESTS, Endpoint, Fleet, Handle, Request
from $module import $cls


def fleet_of(*running: float) -> Fleet:
    """One endpoint for each number of running requests."""
    fleet = Fleet()
    for i, requests in enumerate(running):
        endpoint = Endpoint(f"s{i}", f"10.0.0.{i + 1}", 8000)
        fleet.add(endpoint)
        fleet.columns[RUNNING_REQUESTS][endpoint.row] = requests
    return fleet


def plugin_over(fleet: Fleet) -> $cls:
    handle = Handle("$name", fleet, monotonic, random.Random(0), logging.getLogger("test"), Mock())
    return $cls($cls.Params(), handle)


'''

TEST: Final[Mapping[str, str]] = {
    "scorer": _TEST
    + """\
def test_fewer_running_requests_are_better() -> None:
    fleet = fleet_of(0, 25, 500)

    scores = plugin_over(fleet).score(Request("r", {}), fleet.candidates())

    assert list(scores) == [1.0, 0.75, 0.0]
""",
    "filter": _TEST
    + """\
def test_a_busy_endpoint_is_removed() -> None:
    fleet = fleet_of(0, 99, 100)

    kept = plugin_over(fleet).keep(Request("r", {}), fleet.candidates())

    assert list(kept) == [True, True, False]
""",
    "producer": _TEST
    + """\
def test_the_header_is_published() -> None:
    fleet = fleet_of(0)
    request = Request("r", {"x-tenant": "blue"})

    plugin_over(fleet).produce(request, fleet.candidates())

    assert request.data == {"HeaderValue/$name": "blue"}
""",
}
