"""What keeps requests away though endpoints are known."""

from __future__ import annotations

import pytest

from epp.api import ReadinessChecker
from epp.app_readiness import hindrances
from epp.config import Pipeline
from tests.support.configs import HEAD
from tests.support.service import make_director


class Checker(ReadinessChecker):
    """As a plugin of somebody else."""

    type = "checker"
    reason = ""

    def not_ready(self) -> str:
        if self.reason == "raise":
            raise RuntimeError("a defect")
        return self.reason


def pipeline_with(*parsers: str) -> Pipeline:
    listed = "".join(f"- {{type: {parser}}}\n" for parser in parsers)
    refs = ", ".join(f"{{pluginRef: {parser}}}" for parser in parsers)
    config = (
        f"{HEAD}plugins:\n- {{type: checker}}\n- {{type: queue-scorer}}\n{listed}"
        f"requestHandler: {{parsers: [{refs}]}}\n"
        "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
    )
    return make_director(config=config, plugins=[Checker]).pipeline


@pytest.mark.parametrize(
    ("parsers", "app_protocol", "named"),
    [
        (["openai-parser"], "http", []),
        (["openai-parser"], "kubernetes.io/h2c", []),
        (["vllmgrpc-parser"], "kubernetes.io/h2c", []),
        (["vllmgrpc-parser"], "", []),  # no pool, or one of the older version
        (["vllmgrpc-parser"], "http", ["vllmgrpc-parser"]),
        (["openai-parser", "vllmgrpc-parser"], "http", ["vllmgrpc-parser"]),  # one that does not fit is enough
        (["vertexai-parser"], "http", ["vertexai-parser"]),
    ],
)
def test_every_parser_must_suit_what_the_pool_speaks(parsers: list[str], app_protocol: str, named: list[str]) -> None:
    found = hindrances(pipeline_with(*parsers), app_protocol=app_protocol)

    assert [reason.split(":")[0].removeprefix("plugin ") for reason in found] == named


def test_a_plugin_that_is_not_ready_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "reason", "no model yet")

    assert list(hindrances(pipeline_with("openai-parser"), app_protocol="")) == ["plugin checker: no model yet"]


def test_a_plugin_that_cannot_say_keeps_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "reason", "raise")

    assert list(hindrances(pipeline_with("openai-parser"), app_protocol="")) == []
