"""slo-aware-profile-handler: the client says whether predictions decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from epp.api import (
    Code,
    ConfigError,
    Handle,
    NoParams,
    ProfileHandler,
    ProfileResult,
    Request,
    RequestError,
    SchedulingResult,
    headers,
)

_BY_PREDICTION: Final = "slo"
_WITHOUT: Final = "default"


class SloAwareProfileHandler(ProfileHandler):
    """Runs profile `slo` for requests with the header `x-prediction-based-scheduling: true`, else profile `default`.

    `x-prediction-based-scheduling-off: true` goes before it. The only profile runs for all requests. The handler of the first
    SLO-aware Go EPP; that one ran both profiles for every request.
    """

    type = "slo-aware-profile-handler"

    def __init__(self, params: NoParams, handle: Handle) -> None:
        super().__init__(params, handle)
        self._names: tuple[str, ...] = ()

    def check_profiles(self, names: Sequence[str]) -> None:
        if len(names) != 1 and set(names) != {_WITHOUT, _BY_PREDICTION}:
            listed = ", ".join(names) or "none"
            raise ConfigError(
                f'{self.type} works with profiles "{_WITHOUT}" and "{_BY_PREDICTION}"; there are {listed}'
            )
        self._names = tuple(names)

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        if results:
            return ()
        if len(self._names) == 1:
            return self._names
        asked = _switch(request, headers.BY_PREDICTION) and not _switch(request, headers.NOT_BY_PREDICTION)
        return (_BY_PREDICTION if asked else _WITHOUT,)

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        return SchedulingResult(results, next(iter(results)))


def _switch(request: Request, name: str) -> bool:
    text = request.headers.get(name, "false")
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise RequestError(Code.BAD_REQUEST, f"header {name} must be true or false")
