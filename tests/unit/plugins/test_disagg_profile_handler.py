from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from epp.api import (
    PEER_ENDPOINT,
    ConfigError,
    Decider,
    Endpoint,
    Fleet,
    ProfileResult,
    Request,
    RequestError,
    SchedulingResult,
)
from epp_plugins.handlers.disagg_profile_handler import DisaggProfileHandler
from tests.support.plugins import make_fleet, make_handle, make_plugin
from tests.support.scheduling import make_request

ALL = ("decode", "prefill", "encode")
BOTH = {"prefill": "p", "encode": "e"}


class Fixed(Decider):
    """Answers always the same, and remembers which endpoint it was asked about."""

    type = "fixed"

    def __init__(self, answer: bool) -> None:
        super().__init__(None, make_handle(name="fixed"))
        self.answer = answer
        self.asked: list[Endpoint | None] = []

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        self.asked.append(endpoint)
        return self.answer


def make_handler(
    *, prefill: bool = True, encode: bool = True, profiles: Iterable[str] = ALL, **parameters: object
) -> DisaggProfileHandler:
    deciders = {"p": Fixed(prefill), "e": Fixed(encode)}
    handle = msgspec.structs.replace(make_handle(), plugins=deciders)
    handler = make_plugin(DisaggProfileHandler, handle=handle, **parameters)
    handler.check_profiles(tuple(profiles))
    return handler


def run(
    handler: DisaggProfileHandler, fleet: Fleet, request: Request | None = None, **rows: int | None
) -> tuple[list[str], SchedulingResult]:
    """What the scheduler does: the order in which profiles run, each choosing its row of `rows`, and the outcome."""
    request = request or make_request()
    results: dict[str, ProfileResult | None] = {}
    while names := [name for name in handler.pick_profiles(request, results) if name not in results]:
        for name in names:
            row = rows.get(name)
            endpoint = None if row is None else fleet.endpoints[row]
            results[name] = endpoint and ProfileResult((endpoint,), fleet.candidates(), np.zeros(len(fleet)))
    outcome = handler.process_results(request, results)
    if outcome.profiles.get(outcome.primary) is not None:
        handler.pre_request(request, outcome)
    return list(results), outcome


@pytest.mark.parametrize(
    ("prefill", "encode", "order"),
    [
        (False, False, ["decode"]),
        (True, False, ["decode", "prefill"]),
        (False, True, ["decode", "encode"]),
        (True, True, ["decode", "encode", "prefill"]),
    ],
)
def test_decode_runs_first_and_deciders_choose_the_rest(prefill: bool, encode: bool, order: list[str]) -> None:
    fleet = make_fleet(3)
    handler = make_handler(prefill=prefill, encode=encode, deciders=BOTH)

    ran, outcome = run(handler, fleet, decode=0, prefill=1, encode=2)

    assert ran == order
    assert outcome.target is fleet.endpoints[0]
    assert set(outcome.profiles) == set(order)


def test_each_decider_is_asked_once_about_the_decode_endpoint_which_is_the_peer() -> None:
    fleet = make_fleet(3)
    handler, request = make_handler(deciders=BOTH), make_request()

    run(handler, fleet, request, decode=1, prefill=2, encode=0)

    for name in ("p", "e"):
        assert handler.handle.plugin(name, Fixed).asked == [fleet.endpoints[1]]
    assert request.data[PEER_ENDPOINT] is fleet.endpoints[1]


def test_the_headers_name_the_prefiller_and_all_encoders() -> None:
    fleet = make_fleet(4)
    handler, request = make_handler(deciders=BOTH), make_request()
    everyone = fleet.candidates()
    chosen = {"decode": [0], "prefill": [1, 2], "encode": [2, 3]}
    results = {
        name: ProfileResult(tuple(everyone.endpoints[i] for i in rows), everyone, np.zeros(4))
        for name, rows in chosen.items()
    }

    handler.pre_request(request, handler.process_results(request, results))

    assert request.set_headers == {
        "x-prefiller-host-port": "10.0.0.2:8000",
        "x-encoder-hosts-ports": "10.0.0.3:8000,10.0.0.4:8000",
    }


def test_headers_that_the_client_sent_are_emptied_and_others_not_set() -> None:
    handler = make_handler(prefill=False, deciders={"prefill": "p"})
    request = make_request(headers={"x-prefiller-host-port": "10.9.9.9:1"})

    run(handler, make_fleet(1), request, decode=0)

    assert request.set_headers == {"x-prefiller-host-port": ""}


def test_a_stage_that_finds_nobody_is_left_to_the_decode_endpoint() -> None:
    fleet = make_fleet(1)
    handler, request = make_handler(encode=False, deciders=BOTH), make_request()

    ran, outcome = run(handler, fleet, request, decode=0, prefill=None)

    assert ran == ["decode", "prefill"]
    assert list(outcome.profiles) == ["decode"]
    assert request.set_headers == {}


def test_a_stage_that_finds_nobody_can_be_refused() -> None:
    handler = make_handler(deciders={"prefill": "p"}, onStageUnavailable="refuse")

    with pytest.raises(RequestError) as raised:
        run(handler, make_fleet(1), decode=0, prefill=None)

    assert raised.value.http_status == 503


def test_a_missing_stage_is_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    fleet = make_fleet(2)
    handler = make_handler(deciders={"prefill": "p"}, profiles=("decode", "prefill"))
    for prefill in (None, None, 1, 1, None):
        run(handler, fleet, decode=0, prefill=prefill)

    said = [record.getMessage().partition("stage ")[2] for record in caplog.records]
    assert said == [
        "prefill finds no endpoint: the decode endpoint does its work",
        "prefill finds endpoints again",
        "prefill finds no endpoint: the decode endpoint does its work",
    ]


def test_a_stage_that_picks_the_decode_endpoint_is_left_to_it() -> None:
    handler, request = make_handler(deciders=BOTH), make_request()

    _, outcome = run(handler, make_fleet(2), request, decode=0, prefill=0, encode=1)

    assert set(outcome.profiles) == {"decode", "encode"}
    assert list(request.set_headers) == ["x-encoder-hosts-ports"]


def test_without_a_decode_endpoint_nothing_else_runs_and_nothing_is_chosen() -> None:
    ran, outcome = run(make_handler(deciders=BOTH), make_fleet(1), decode=None, prefill=0)

    assert ran == ["decode"]
    assert outcome.profiles.get(outcome.primary) is None


@pytest.mark.parametrize(("profiles", "order"), [(ALL, ["prefill", "encode", "decode"]), (("decode",), ["decode"])])
def test_prefill_first_needs_no_decider(profiles: tuple[str, ...], order: list[str]) -> None:
    fleet = make_fleet(3)
    deciders = {"encode": "e"} if "encode" in profiles else {}
    handler = make_handler(stageOrder="prefill-first", deciders=deciders, profiles=profiles)
    request = make_request()

    ran, outcome = run(handler, fleet, request, prefill=1, encode=2, decode=0)

    assert ran == order
    assert outcome.target is fleet.endpoints[0]
    assert request.data.get(PEER_ENDPOINT) is (fleet.endpoints[1] if "prefill" in order else None)


def test_the_deprecated_parameters_mean_the_same() -> None:
    fleet = make_fleet(2)
    handle = msgspec.structs.replace(make_handle(), plugins={"p": Fixed(True)})
    old = make_plugin(DisaggProfileHandler, handle=handle, decodeProfile="d", prefillProfile="q", deciderPluginName="p")
    new = make_plugin(
        DisaggProfileHandler, handle=handle, profiles={"decode": "d", "prefill": "q"}, deciders={"prefill": "p"}
    )

    for handler in (old, new):
        handler.check_profiles(("d", "q"))
        assert run(handler, fleet, d=0, q=1)[0] == ["d", "q"]
    assert set(DisaggProfileHandler.refers_to(old.params)) == {"deciderPluginName"}
    assert set(DisaggProfileHandler.refers_to(new.params)) == {"deciders.prefill"}


@pytest.mark.parametrize("nested", [{"profiles": {"decode": "d"}}, {"deciders": {"prefill": "p"}}])
def test_deprecated_parameters_beside_present_ones_are_refused(nested: dict[str, dict[str, str]]) -> None:
    """One of them would be ignored."""
    handle = msgspec.structs.replace(make_handle(), plugins={"p": Fixed(True)})

    with pytest.raises(ConfigError, match="cannot be written beside their deprecated names"):
        make_plugin(DisaggProfileHandler, handle=handle, decodeProfile="q", **nested)


def test_prefill_first_with_a_prefill_decider_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"deciders\.prefill: with stageOrder prefill-first"):
        make_handler(stageOrder="prefill-first", deciders={"prefill": "p"})


@pytest.mark.parametrize(
    ("profiles", "said"), [(("a",), "profiles.decode: no scheduling"), (("decode",), "profiles.prefill: no scheduling")]
)
def test_a_stage_without_its_profile_is_refused(profiles: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_handler(deciders={"prefill": "p"}, profiles=profiles)
