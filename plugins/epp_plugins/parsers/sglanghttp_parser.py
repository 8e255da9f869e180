"""sglanghttp-parser: SGLang's own `/generate`, which has no model name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from epp.api import Code, Parser, Payload, Prompt, Request, RequestError, Response, UsageReader
from epp_plugins.parsers.json_body import PromptsBody, read_prompts, token_limit
from epp_plugins.parsers.json_parser import body_form
from epp_plugins.parsers.json_usage import JsonUsageReader
from epp_plugins.parsers.prompts import Texts, text_prompts
from epp_plugins.parsers.sse import SseUsageReader
from epp_plugins.parsers.usage import sglang_usage

_INVALID: Final = "invalid generate request: must have non-empty input_ids field"


class GenerateBody(PromptsBody, gc=False):
    """`extra_key` keeps the cache entries of different users apart, as a cache salt does."""

    input_ids: list[int | list[int]] | None = None
    text: Texts = None
    extra_key: str | None = None
    sampling_params: Any = None
    stream: Any = None

    def prompts(self) -> tuple[Prompt, ...]:
        """The token ids, or else the texts; none when both are missing or an id is no uint32."""
        try:
            return text_prompts([*self.input_ids] if self.input_ids else self.text)
        except ValueError:
            return ()

    def output_limit(self) -> int | None:
        return (
            token_limit(self.sampling_params.get("max_new_tokens")) if isinstance(self.sampling_params, dict) else None
        )


_generate: Final = msgspec.json.Decoder(GenerateBody)


class SglangHttpParser(Parser):
    """Reads `/generate` and nothing longer. Its answers hold usage in `meta_info`, of each choice by itself."""

    type = "sglanghttp-parser"

    def paths(self) -> Sequence[str]:
        return ("generate",)

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        if path != "/generate":
            raise RequestError(Code.BAD_REQUEST, f"unsupported API endpoint: {path}")
        parsed, prompts = read_prompts(body, _generate, syntax="error unmarshaling request body", invalid=_INVALID)
        return Payload(
            prompts=prompts,
            streaming=parsed.stream is True,
            cache_salt=parsed.extra_key or "",
            max_output_tokens=parsed.output_limit(),
        )

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        match body_form(response):
            case "events":
                return SseUsageReader(mark=b'"meta_info"', read=sglang_usage)
            case "json":
                return JsonUsageReader(read=sglang_usage)
        return None
