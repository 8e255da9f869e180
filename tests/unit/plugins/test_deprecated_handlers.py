"""Former names of disaggregation plugins still do their work."""

from __future__ import annotations

import msgspec
import pytest

from epp.api import PreRequest, SchedulingResult
from epp_plugins.deciders.always_disagg_pd_decider import AlwaysDisaggPdDecider
from epp_plugins.handlers.data_parallel_profile_handler import DataParallelProfileHandler
from epp_plugins.handlers.pd_profile_handler import PdProfileHandler
from epp_plugins.hooks.disagg_headers_handler import DisaggHeadersHandler
from epp_plugins.hooks.prefill_header_handler import PrefillHeaderHandler
from tests.support.plugins import make_fleet, make_handle, make_plugin
from tests.support.scheduling import make_request, picked


@pytest.mark.parametrize("kind", [DisaggHeadersHandler, PrefillHeaderHandler])
def test_headers_come_from_the_profiles_named(kind: type[PreRequest]) -> None:
    fleet, request = make_fleet(3), make_request()

    make_plugin(kind, fleet, prefillProfile="p").pre_request(request, picked(fleet, 0, p=1, prefill=2, encode=None))

    assert request.set_headers == {"x-prefiller-host-port": "10.0.0.2:8000"}


def test_data_parallel_sends_to_the_primary_port_and_names_the_rank() -> None:
    fleet, request = make_fleet(2), make_request()
    handler = make_plugin(DataParallelProfileHandler, fleet, primaryPort=9000)

    result = handler.process_results(request, picked(fleet, 1).profiles)

    assert result.destination == "10.0.0.2:9000"
    assert result.target is fleet.endpoints[1]
    assert request.set_headers == {"x-data-parallel-host-port": "10.0.0.2:8000"}


@pytest.mark.parametrize(("port", "destination"), [(0, ""), (9000, "10.0.0.1:9000")])
def test_pd_runs_decode_then_prefill(port: int, destination: str) -> None:
    fleet, request = make_fleet(2), make_request()
    deciders = {"prefix-based-pd-decider": make_plugin(AlwaysDisaggPdDecider)}
    handle = msgspec.structs.replace(make_handle(fleet), plugins=deciders)
    handler = make_plugin(PdProfileHandler, handle=handle, primaryPort=port)
    handler.check_profiles(("decode", "prefill"))
    results = dict(picked(fleet, 0, prefill=1).profiles)
    results["decode"] = results.pop("default")

    outcome: SchedulingResult = handler.process_results(request, results)
    handler.pre_request(request, outcome)

    assert list(handler.pick_profiles(request, {})) == ["decode"]
    assert list(handler.pick_profiles(request, {"decode": results["decode"]})) == ["prefill"]
    assert outcome.destination == destination
    assert request.set_headers["x-prefiller-host-port"] == "10.0.0.2:8000"
    assert "x-encoder-hosts-ports" not in request.set_headers
