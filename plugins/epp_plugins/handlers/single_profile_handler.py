"""single-profile-handler: one profile, run once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from epp.api import ConfigError, Handle, NoParams, ProfileHandler, ProfileResult, Request, SchedulingResult


class SingleProfileHandler(ProfileHandler):
    """Runs the only profile once; its result is the destination. Same rule as the Go EPP's single-profile-handler."""

    type = "single-profile-handler"

    def __init__(self, params: NoParams, handle: Handle) -> None:
        super().__init__(params, handle)
        self._names: tuple[str, ...] = ()

    def check_profiles(self, names: Sequence[str]) -> None:
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise ConfigError(
                f"{self.type} works with exactly one scheduling profile, {len(names)} are configured: {listed}"
            )
        self._names = tuple(names)

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        return () if results else self._names

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        return SchedulingResult(results, next(iter(results)))
