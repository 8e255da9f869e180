"""token-producer: the prompts and the media of a request, for plugins that look into them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from epp.api import (
    TOKENIZED_PROMPT,
    Candidates,
    ConfigError,
    DataProducer,
    Handle,
    Medium,
    PreRequest,
    Request,
    SchedulingResult,
    TokenizedPrompt,
    data_key,
)
from epp_plugins.media import media_hashes


class VllmBackend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A vLLM server that renders and tokenizes prompts."""

    url: str = "http://localhost:8000"
    timeout: str = "5s"
    mm_timeout: str = "30s"


class TokenProducer(DataProducer, PreRequest):
    """Publishes TokenizedPrompt: the prompts as the parser read them (ids of tokens, or text taken as four bytes a token).

    Each medium counts as one token, since its size is not known. Media of prompts that came as token ids are not told apart
    from tokens. Once the destination is known the prompts are forgotten, as in the payload. The backend `vllm`, which asks a
    server for the real tokens, is refused: it belongs to the precise prefix index. Of the Go EPP's token-producer this is the
    backend `estimate`.
    """

    type = "token-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        model_name: str = ""
        vllm: VllmBackend | None = None

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(TOKENIZED_PROMPT, handle.name)
        if params.vllm is not None:
            raise ConfigError(
                "vllm: asking a server for tokens comes with the precise prefix index, which is not part of this version; "
                "without it tokens are estimated"
            )

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        prompts = request.payload.prompts
        media = tuple(Medium(content_hash) for prompt in prompts for content_hash in media_hashes(prompt))
        request.data[self._key] = TokenizedPrompt(prompts, media)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        prompt: TokenizedPrompt | None = request.data.get(self._key)
        if prompt is not None:
            request.data[self._key] = TokenizedPrompt((), prompt.media)
