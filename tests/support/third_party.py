"""Plugin classes as another package would bring them."""

from __future__ import annotations

import sys
from typing import Any

from epp.api import Handle
from tests.support.configs import FlatScorer


class ThirdPartyScorer(FlatScorer):
    type = "third-party-scorer"


class ExitingScorer(ThirdPartyScorer):
    """Its author took it for a program."""

    type = "exiting-scorer"

    def __init__(self, params: Any, handle: Handle) -> None:
        sys.exit("no licence")


class NotAPlugin:
    type = "not-a-plugin"


class WithPlainParams(ThirdPartyScorer):
    """Its author has forgotten `msgspec.Struct`."""

    type = "plain-params-scorer"

    class Params:  # type: ignore[assignment]
        limit: int = 1
