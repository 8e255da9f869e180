"""The scheduling loop: the profile handler picks profiles, they run, it picks again until none is left."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from epp.api import Candidates, Code, ProfileHandler, ProfileResult, Request, RequestError, SchedulingResult
from epp.scheduling.observer import Observer
from epp.scheduling.profile import NoEndpointLeft, Profile


class Scheduler:
    """Immutable: profiles by name in configuration order, and their handler."""

    __slots__ = ("_pick_timer", "_process_timer", "handler", "profiles")

    def __init__(self, profiles: Mapping[str, Profile], handler: ProfileHandler, *, observer: Observer) -> None:
        self.profiles = dict(profiles)
        self.handler = handler
        self._pick_timer = observer.timer("ProfilePicker", handler)
        self._process_timer = observer.timer("ProcessProfilesResults", handler)

    def schedule(self, request: Request, candidates: Candidates) -> SchedulingResult:
        """Raises RequestError when no profile chose an endpoint."""
        results: dict[str, ProfileResult | None] = {}
        failure: NoEndpointLeft | None = None
        while True:
            before = perf_counter()
            names = [n for n in self.handler.pick_profiles(request, results) if n not in results]
            self._pick_timer(perf_counter() - before)
            if not names:
                break
            for name in names:
                try:
                    results[name] = self.profiles[name].run(request, candidates)
                except NoEndpointLeft as error:
                    results[name] = None
                    failure = error
        if not results:
            raise RequestError(Code.RESOURCE_EXHAUSTED, "failed to find target endpoint: no profile ran")
        before = perf_counter()
        outcome = self.handler.process_results(request, results)
        self._process_timer(perf_counter() - before)
        if outcome.profiles.get(outcome.primary) is None:
            raise failure or RequestError(
                Code.RESOURCE_EXHAUSTED, f"failed to find target endpoint: profile {outcome.primary} did not run"
            )
        return outcome
