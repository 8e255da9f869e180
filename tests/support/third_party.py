"""Plugin classes as another package would bring them."""

from __future__ import annotations

from tests.support.configs import FlatScorer


class ThirdPartyScorer(FlatScorer):
    type = "third-party-scorer"


class NotAPlugin:
    type = "not-a-plugin"


class WithPlainParams(ThirdPartyScorer):
    """Its author has forgotten `msgspec.Struct`."""

    type = "plain-params-scorer"

    class Params:  # type: ignore[assignment]
        limit: int = 1
