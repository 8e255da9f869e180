"""always-disagg-multimodal-decider: encode elsewhere what is not text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from epp.api import TOKENIZED_PROMPT, Decider, Endpoint, Handle, Request, TokenizedPrompt, data_key


class AlwaysDisaggMultimodalDecider(Decider):
    """Yes for prompts with an image, a video or an audio. Same rule as the Go EPP's always-disagg-multimodal-decider."""

    type = "always-disagg-multimodal-decider"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        token_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(TOKENIZED_PROMPT, params.token_producer_name)

    def consumes(self) -> Sequence[str]:
        return (self._key,)

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        prompt: TokenizedPrompt | None = request.data.get(self._key)
        return prompt is not None and bool(prompt.media)
