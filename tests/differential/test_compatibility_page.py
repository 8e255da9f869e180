"""docs/compatibility.md names every plugin type, and says of each truly whether it is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from epp.config.flow_control import POLICY_TYPES
from epp_plugins.registry import BUILTIN
from tests.differential.bad_requests import BAD_REQUESTS, GRPC_REQUESTS, ODD_REQUESTS
from tests.differential.configurations import JUDGED, SAMPLES
from tests.differential.scenarios import SCENARIOS
from tests.differential.test_added import CONFIGS as ADDED
from tests.differential.test_media_tokens import ASKS as MEDIA
from tests.differential.test_responses import RESPONSES

_PAGE: Final = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
_ROW: Final = re.compile(r"^\| `([a-z0-9-]+)` \| (yes|accepted|not yet) \| (.+) \|$", re.MULTILINE)


def test_every_type_has_its_line() -> None:
    said = {type_name: there for type_name, there, _ in _ROW.findall(_PAGE)}

    assert {t for t, there in said.items() if there == "yes"} == set(BUILTIN)
    assert {t for t, there in said.items() if there == "accepted"} == set(POLICY_TYPES) - set(BUILTIN)


def test_numbers_are_those_of_the_tests() -> None:
    fleets = sum(s.states for s in SCENARIOS.values())
    asked = sum(s.states * s.requests for s in SCENARIOS.values())
    requests = len(BAD_REQUESTS | ODD_REQUESTS) + len(GRPC_REQUESTS)

    assert f"{len(SCENARIOS)} configurations, {fleets} random fleets, {asked} random requests" in _PAGE
    assert f"{len(SAMPLES | JUDGED)} files" in _PAGE
    assert f"{requests} requests" in _PAGE
    assert f"{len(RESPONSES)} responses" in _PAGE
    assert f"| {len(MEDIA)} requests each |" in _PAGE
    assert f"| {len(ADDED)} configurations |" in _PAGE
