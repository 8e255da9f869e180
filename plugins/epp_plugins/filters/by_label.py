"""by-label: endpoints with one of some values of one label. Deprecated."""

from __future__ import annotations

import msgspec

from epp.api import Candidates, ConfigError, Filter, Handle, Request


class ByLabel(Filter):
    """Keeps endpoints whose `label` is one of `validValues`, and those without it if `allowsNoLabel`.

    Deprecated: use label-selector-filter. Same rule as the Go EPP's by-label.
    """

    type = "by-label"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        label: str
        valid_values: frozenset[str] = frozenset()
        allows_no_label: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        if not params.label:
            raise ConfigError("label: must name a label")
        if not params.valid_values and not params.allows_no_label:
            raise ConfigError("validValues: nothing can match; list values or set allowsNoLabel")
        handle.log.warning("plugin %s: type by-label is deprecated; use label-selector-filter", handle.name)

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        kept = []
        for endpoint in candidates:
            value = endpoint.labels.get(self.params.label)
            kept.append(self.params.allows_no_label if value is None else value in self.params.valid_values)
        return kept
