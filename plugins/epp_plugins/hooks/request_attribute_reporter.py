"""request-attribute-reporter: a number about a finished request, computed from its token counts, for the gateway."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from epp.api import ConfigError, Handle, Request, Response, ResponseEnding, Usage, headers

if TYPE_CHECKING:
    from cel import Program

_PACKAGE: Final = "common-expression-language"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the number goes among the dynamic metadata."""

    name: str
    namespace: str = headers.METADATA_NAMESPACE


class Attribute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to report: a CEL expression, and optionally one that must be true."""

    key: Key
    expression: str
    condition: str = ""


class RequestAttributeReporter(ResponseEnding):
    """Sets dynamic metadata `namespace` / `name` at the end of a response whose token counts are known.

    The expression sees the integers `usage.prompt_tokens`, `usage.completion_tokens`, `usage.total_tokens` and
    `usage.prompt_tokens_details.cached_tokens`, those not reported as 0; for example `usage.completion_tokens * 2 +
    usage.prompt_tokens`. Nothing is set for a result of 0 or less, or that is no finite number, when an expression fails, and
    when the condition is not true. Same rule as the Go EPP's request-attribute-reporter.
    """

    type = "request-attribute-reporter"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        attributes: Annotated[tuple[Attribute, ...], msgspec.Meta(min_length=1, max_length=1)]

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        (attribute,) = params.attributes
        if not attribute.key.name:
            raise ConfigError("attributes[0].key.name: must not be empty")
        self._key = attribute.key
        compile_cel = _compiler()
        self._expression = _program(compile_cel, attribute.expression, "attributes[0].expression")
        self._condition = None
        if attribute.condition:
            self._condition = _program(compile_cel, attribute.condition, "attributes[0].condition")

    def response_ending(self, request: Request, response: Response) -> None:
        if response.usage is None:
            return
        variables = {"usage": _variables(response.usage)}
        try:
            if self._condition is not None and self._condition.execute(variables) is not True:
                return
            value = self._expression.execute(variables)
        # Each kind of mistake in an expression has its own class: KeyError, TypeError, ZeroDivisionError, ...
        except Exception as error:
            self.handle.log.debug("plugin %s: %s", self.name, error)
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        if value > 0 and math.isfinite(value):
            response.dynamic_metadata.setdefault(self._key.namespace, {})[self._key.name] = value


def _compiler() -> Callable[[str], Program]:
    # Only here: its command line tools make it slow to import.
    try:
        from cel import compile as compile_cel
    except ImportError as error:
        raise ConfigError(f"CEL expressions need a further package; install it with: pip install {_PACKAGE}") from error
    return compile_cel


def _program(compile_cel: Callable[[str], Program], text: str, parameter: str) -> Program:
    try:
        program = compile_cel(text)
    except ValueError as error:
        raise ConfigError(f"{parameter}: {str(error).splitlines()[0]}") from None
    unknown = [name for name in program.variables() if name != "usage"]
    if unknown:
        raise ConfigError(f"{parameter}: there is no variable {unknown[0]}, only usage")
    return program


def _variables(usage: Usage) -> dict[str, Any]:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    total = prompt + completion if usage.total_tokens is None else usage.total_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
    }
