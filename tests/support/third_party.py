"""Plugin classes as another package would bring them."""

from __future__ import annotations

from tests.support.configs import FlatScorer


class ThirdPartyScorer(FlatScorer):
    type = "third-party-scorer"


class NotAPlugin:
    type = "not-a-plugin"
