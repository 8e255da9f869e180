"""header-profile-handler: the client, or a coordinator in front, names the profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from epp.api import (
    Code,
    ConfigError,
    Handle,
    ProfileHandler,
    ProfileResult,
    Request,
    RequestError,
    SchedulingResult,
)


class HeaderProfileHandler(ProfileHandler):
    """Runs the profile that the header `headerName` names, `defaultProfile` without it, and the only one if there is one.

    Differs from the Go EPP's header-profile-handler for a name that no profile has: status 400 in place of 429.
    """

    type = "header-profile-handler"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        header_name: str = "EPP-Profile"
        default_profile: str = "decode"

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.header_name:
            raise ConfigError("headerName: must name a header")
        self._header = params.header_name.lower()
        self._names: tuple[str, ...] = ()

    def check_profiles(self, names: Sequence[str]) -> None:
        default = self.params.default_profile
        if len(names) != 1 and default not in names:
            listed = ", ".join(names) or "none"
            raise ConfigError(f'defaultProfile: no scheduling profile is named "{default}"; there are {listed}')
        self._names = tuple(names)

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        if results:
            return ()
        if len(self._names) == 1:
            return self._names
        name = request.headers.get(self._header) or self.params.default_profile
        if name not in self._names:
            raise RequestError(Code.BAD_REQUEST, f"header {self._header} names no scheduling profile")
        return (name,)

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        return SchedulingResult(results, next(iter(results)))
