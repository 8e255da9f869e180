"""disaggregatedset-rollout-screener: while a disaggregated deployment is rolled out, a request stays within one revision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from epp.api import Candidates, ConfigError, Endpoint, Handle, Request, Response, ResponseReceived, Screener
from epp_plugins.selector_text import parse_selector

_PREFIX: Final = "disaggregatedset.x-k8s.io"
Counts = Mapping[str, Counter[str]]  # by revision, endpoints by role


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which endpoints belong to the set, as a label selector in text. The others always stay."""

    label_selector: str


class HeaderSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A request header that names the value of a label; the response carries the served endpoint's value in it."""

    name: str
    header_name: str
    label_key: str
    mode: Literal["strict", "prefer"]


class Roles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    values: tuple[str, ...] = ()


class RevisionGating(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    mode: Literal["sum", "max-role", "disabled"]
    require_roles: Roles = Roles()
    revision_label_key: str = f"{_PREFIX}/revision"
    role_label_key: str = f"{_PREFIX}/role"


class DisaggregatedsetRolloutScreener(Screener, ResponseReceived):
    """Keeps the endpoints of one revision, and those outside of `scope`.

    A request with a `strict` header keeps the endpoints whose label has its value: none, if none has. Otherwise one revision
    is drawn among those with an endpoint of every required role. Its weight is the number of its endpoints in these roles
    (`sum`), or in the role that has the most endpoints over all such revisions, the first of equals (`max-role`). Without
    such a revision none is kept. `disabled` leaves it at the headers. A `prefer` header only marks the response: pair it with
    header-label-affinity-scorer. Endpoints are counted over the whole fleet, at once: no revision of yesterday's is drawn.

    Same rules as the Go EPP's disaggregatedset-rollout-screener.
    """

    type = "disaggregatedset-rollout-screener"
    experimental = True

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        scope: Scope
        revision_gating: RevisionGating
        header_selectors: tuple[HeaderSelector, ...] = ()

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._gating = params.revision_gating
        self._selectors = tuple((s, s.header_name.lower()) for s in params.header_selectors)
        if not params.scope.label_selector.strip():
            raise ConfigError("scope.labelSelector: must name the labels of the set")
        try:
            self._scope = parse_selector(params.scope.label_selector)
        except ValueError as error:
            raise ConfigError(f"scope.labelSelector: {error}") from None
        if self._gating.mode != "disabled" and not self._gating.require_roles.values:
            raise ConfigError(
                f"revisionGating.requireRoles: mode {self._gating.mode} needs the roles of a whole revision"
            )
        for i, (selector, header) in enumerate(self._selectors):
            if not header or not selector.label_key:
                raise ConfigError(f"headerSelectors[{i}]: name both a header and a label")
        self._no_match = handle.metrics.counter(
            "llm_d_epp_disaggregatedset_strict_header_no_match_total",
            "Requests whose strict header no endpoint matched",
            ("selector",),
        )

    def screen(self, request: Request, candidates: Candidates) -> list[bool]:
        in_scope = [self._in_scope(endpoint) for endpoint in candidates]
        kept = [True] * len(candidates)
        strict = False
        for selector, header in self._selectors:
            value = request.headers.get(header)
            if selector.mode == "strict" and value:
                strict = True
                matches = [e.labels.get(selector.label_key) == value for e in candidates]
                kept = [k and (m or not s) for k, m, s in zip(kept, matches, in_scope, strict=True)]
                if not any(k and s for k, s in zip(kept, in_scope, strict=True)):
                    self._no_match.labels(selector.name).inc()
        if self._gating.mode == "disabled":
            return kept
        weights = self._weights()
        revisions = set(weights) if strict else self._drawn(weights)
        label = self._gating.revision_label_key
        matches = [endpoint.labels.get(label) in revisions for endpoint in candidates]
        return [k and (m or not s) for k, m, s in zip(kept, matches, in_scope, strict=True)]

    def response_received(self, request: Request, response: Response) -> None:
        if request.result is None:
            return
        chosen = request.result.endpoints
        served = next((e for e in chosen if e.host_port == response.served_endpoint), chosen[0])
        for selector, header in self._selectors:
            value = served.labels.get(selector.label_key)
            if value and self._in_scope(served):
                response.set_headers[header] = value

    def _drawn(self, weights: Mapping[str, int]) -> set[str]:
        if not weights:
            return set()
        return set(self.handle.random.choices(list(weights), list(weights.values())))

    def _weights(self) -> dict[str, int]:
        """By revision that has endpoints in every required role."""
        counts = self._counts(self.handle.fleet.candidates())
        roles = tuple(dict.fromkeys(self._gating.require_roles.values))
        whole = {revision: of for revision, of in counts.items() if all(of[role] for role in roles)}
        if self._gating.mode == "max-role":
            roles = (_largest(roles, whole.values()),)
        return {revision: sum(of[role] for role in roles) for revision, of in whole.items()}

    def _counts(self, endpoints: Iterable[Endpoint]) -> Counts:
        counts: dict[str, Counter[str]] = {}
        for endpoint in endpoints:
            revision = endpoint.labels.get(self._gating.revision_label_key)
            if revision and self._in_scope(endpoint):
                role = endpoint.labels.get(self._gating.role_label_key, "")
                counts.setdefault(revision, Counter())[role] += 1
        return counts

    def _in_scope(self, endpoint: Endpoint) -> bool:
        return all(requirement.matches(endpoint.labels) for requirement in self._scope)


def _largest(roles: Sequence[str], counts: Iterable[Counter[str]]) -> str:
    totals = sum(counts, Counter[str]())
    return max(roles, key=lambda role: totals[role])
