"""vllmhttp-parser: vLLM's `inference/v1/generate`, whose prompts come as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from epp.api import Payload, Prompt
from epp_plugins.parsers.json_body import JsonBody, choice_count, read_json, token_limit
from epp_plugins.parsers.json_parser import JsonParser
from epp_plugins.parsers.token_ids import token_prompt, with_media


class Sampling(msgspec.Struct, gc=False):
    max_tokens: Any = None
    n: Any = None


class Placeholder(msgspec.Struct, gc=False):
    offset: int = 0
    length: int = 0


class Features(msgspec.Struct, gc=False):
    """Media by kind: their content hashes, and where their tokens are."""

    mm_hashes: dict[str, list[str | None]] | None = None
    mm_placeholders: dict[str, list[Placeholder]] | None = None

    def media(self) -> Iterator[tuple[int, int, str]]:
        """(offset, length, content hash) of each medium."""
        for kind, hashes in (self.mm_hashes or {}).items():
            places = (self.mm_placeholders or {}).get(kind, ())
            for content_hash, place in zip(hashes, places, strict=False):
                yield place.offset, place.length, f"{kind}:{content_hash or ''}"


class GenerateBody(JsonBody, gc=False):
    token_ids: list[int] | None = None
    sampling_params: Sampling | None = None
    features: Features | None = None

    def prompts(self) -> tuple[Prompt, ...]:
        if not self.token_ids:
            return ()
        prompt = token_prompt(self.token_ids)
        return (prompt if self.features is None else with_media(prompt, self.features.media()),)

    def output_limit(self) -> int | None:
        return None if self.sampling_params is None else token_limit(self.sampling_params.max_tokens)

    def choices(self, prompts: int) -> int:
        return 1 if self.sampling_params is None else choice_count(self.sampling_params.n)


_generate: Final = msgspec.json.Decoder(GenerateBody)


class VLLMHttpParser(JsonParser):
    """Reads the requests of a disaggregated front end that has done templates and tokens itself."""

    type = "vllmhttp-parser"

    def paths(self) -> Sequence[str]:
        return ("inference/v1/generate",)

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        return read_json(
            body,
            _generate,
            syntax="error unmarshaling request body",
            invalid="invalid generate request: must have non-empty token_ids field",
        )
