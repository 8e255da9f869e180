"""The scheduling loop: the profile handler picks profiles, they run, it picks again until none is left."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from epp.api import Candidates, Code, ProfileHandler, ProfileResult, Request, RequestError, SchedulingResult
from epp.scheduling.observer import Observer
from epp.scheduling.profile import NoEndpointLeft, Profile
from epp.scheduling.stopwatch import Stopwatch
from epp.scheduling.trace import Trace


class Scheduler:
    """Profiles by name in configuration order, and their handler."""

    __slots__ = ("_pick_timer", "_process_timer", "handler", "profiles")

    def __init__(self, profiles: Mapping[str, Profile], handler: ProfileHandler, *, observer: Observer) -> None:
        self.profiles = dict(profiles)
        self.handler = handler
        self._pick_timer = observer.timer("ProfilePicker", handler)
        self._process_timer = observer.timer("ProcessProfilesResults", handler)

    def schedule(
        self,
        request: Request,
        candidates: Candidates,
        *,
        timed: bool = False,
        trace: Trace | None = None,
        watch: Stopwatch | None = None,
    ) -> SchedulingResult:
        """Raises RequestError when no profile chose an endpoint.

        `timed`: tell the observer what each plugin costs. `trace` gets what each profile came to, `watch` when.
        """
        results: dict[str, ProfileResult | None] = {}
        failure: NoEndpointLeft | None = None
        progress = True
        while progress:
            progress = False
            before = perf_counter() if timed or watch is not None else 0.0
            names = self.handler.pick_profiles(request, results)
            if timed:
                self._pick_timer(perf_counter() - before)
            if watch is not None:
                watch.called("ProfilePicker", self.handler.type, before)
            for name in names:
                if name in results:
                    continue
                progress = True
                try:
                    results[name] = self.profiles[name].run(request, candidates, timed=timed, trace=trace, watch=watch)
                except NoEndpointLeft as error:
                    results[name] = None
                    failure = error
        if not results:
            raise RequestError(Code.RESOURCE_EXHAUSTED, "failed to find target endpoint: no profile ran")
        before = perf_counter() if timed else 0.0
        outcome = self.handler.process_results(request, results)
        if timed:
            self._process_timer(perf_counter() - before)
        if outcome.profiles.get(outcome.primary) is None:
            raise failure or RequestError(
                Code.RESOURCE_EXHAUSTED, f"failed to find target endpoint: profile {outcome.primary} did not run"
            )
        return outcome
