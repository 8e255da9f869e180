"""label-selector-filter: endpoints whose labels match a Kubernetes label selector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from epp.api import Candidates, ConfigError, Filter, Handle, Request


class Requirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of a selector's `matchExpressions`."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes: an endpoint without the label matches NotIn."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelectorFilter(Filter):
    """Keeps endpoints that match all of `matchLabels` and `matchExpressions`; an empty selector matches all."""

    type = "label-selector-filter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        match_labels: dict[str, str] = {}
        match_expressions: tuple[Requirement, ...] = ()

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._labels = tuple(params.match_labels.items())
        self._expressions = params.match_expressions
        for i, expression in enumerate(self._expressions):
            wants_values = expression.operator in ("In", "NotIn")
            if wants_values != bool(expression.values):
                needed = "needs values" if wants_values else "takes no values"
                raise ConfigError(f"matchExpressions[{i}]: operator {expression.operator} {needed}")

    def keep(self, request: Request, candidates: Candidates) -> list[bool]:
        return [self._matches(endpoint.labels) for endpoint in candidates]

    def _matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self._labels) and all(
            expression.matches(labels) for expression in self._expressions
        )
