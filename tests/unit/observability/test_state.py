from __future__ import annotations

import json

import numpy as np
import pytest

from epp.api import METRICS_UPDATED_S, WAITING_REQUESTS, Endpoint, Fleet, Plugin, StateDumper
from epp.observability.plain import encode_json
from epp.observability.state import endpoints_state, plugins_state
from tests.support.plugins import make_handle


class Dumper(StateDumper):
    type = "dumper"

    def dump_state(self) -> object:
        return {"entries": np.int64(3)}


class Broken(StateDumper):
    type = "broken"

    def dump_state(self) -> object:
        raise KeyError("secret")


class Silent(Plugin):
    type = "silent"


def test_endpoints_are_shown_with_their_columns_and_ages() -> None:
    fleet = Fleet()
    fleet.add_column("custom", default=1.5)
    for i in range(2):
        fleet.add(Endpoint(f"e{i}", f"10.0.0.{i + 1}", 8000, labels={"zone": "a"}))
    fleet.columns[METRICS_UPDATED_S][0] = 7.0
    fleet.columns[WAITING_REQUESTS][0] = 4.0

    state = endpoints_state(fleet, lambda: 10.0, pool_name="p", scrapes=lambda: [("e0", "ok", 5), ("e0", "timeout", 1)])

    first, second = json.loads(encode_json(state))["endpoints"]
    assert (first["name"], first["address"], first["labels"]) == ("e0", "10.0.0.1:8000", {"zone": "a"})
    assert (first["columns"]["waiting_requests"], first["columns"]["custom"]) == (4.0, 1.5)
    assert (first["metrics_age_s"], first["scrapes"]) == (3.0, {"ok": 5, "timeout": 1})
    assert (second["metrics_age_s"], second["scrapes"]) == (None, {})


def test_plugins_show_their_state_and_a_failure_does_not_spoil_the_page(caplog: pytest.LogCaptureFixture) -> None:
    plugins = {c.type: c(c.Params(), make_handle(name=c.type)) for c in (Dumper, Broken, Silent)}

    state = json.loads(encode_json(plugins_state(plugins)))

    assert state["plugins"] == {
        "dumper": {"name": "dumper", "type": "dumper", "state": {"entries": 3}},
        "broken": {"name": "broken", "type": "broken", "message": "no state: KeyError"},
    }
    assert "timestamp" in state
    assert [r.levelname for r in caplog.records] == ["WARNING"]
