"""mm-embeddings-cache-producer: guesses from past picks which endpoint holds which images, videos and audios encoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np

from epp.api import (
    ENCODER_MATCH,
    TOKENIZED_PROMPT,
    Candidates,
    DataProducer,
    EncoderMatch,
    Endpoint,
    EndpointListener,
    Handle,
    Medium,
    PreRequest,
    Request,
    SchedulingResult,
    TokenizedPrompt,
    data_key,
)

MEDIUM_MB: Final = 2  # of one encoded medium
DEFAULT_CACHE_MB: Final = 4096
_RATIOS: Final = tuple(i / 10 for i in range(11))


class MmEmbeddingsCacheProducer(DataProducer, PreRequest, EndpointListener):
    """Publishes EncoderMatch: for each endpoint the size of the request's different media that it got before.

    The `cacheSizeInMBPerServer` / 2 media that an endpoint used last count as held (`cacheSizeInMB`, which files for the Go
    EPP use, is the same). The endpoint that encodes is the first of profile `encodeProfileName` where that has run, else the
    destination; the Go EPP's mm-embeddings-cache-producer always takes the destination.
    """

    type = "mm-embeddings-cache-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        cache_size_in_mb_per_server: Annotated[int, msgspec.Meta(ge=MEDIUM_MB)] | None = msgspec.field(
            default=None, name="cacheSizeInMBPerServer"
        )
        cache_size_in_mb: Annotated[int, msgspec.Meta(ge=MEDIUM_MB)] | None = msgspec.field(
            default=None, name="cacheSizeInMB"
        )
        encode_profile_name: str = "encode"
        token_producer_name: str = ""

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(ENCODER_MATCH, handle.name)
        self._prompt_key = data_key(TOKENIZED_PROMPT, params.token_producer_name)
        megabytes = params.cache_size_in_mb_per_server or params.cache_size_in_mb or DEFAULT_CACHE_MB
        self._capacity = megabytes // MEDIUM_MB
        self._held: dict[Endpoint, OrderedDict[bytes, None]] = {}
        metrics = handle.metrics
        plugin = ("plugin_type", "plugin_name")
        self._queries = metrics.counter(
            "llm_d_epp_encoder_cache_queries_total", "Media of requests", (*plugin, "modality")
        )
        self._hits = metrics.counter(
            "llm_d_epp_encoder_cache_hits_total",
            "Media that the chosen endpoint was believed to hold",
            (*plugin, "pod", "modality"),
        )
        self._hit_ratio = metrics.histogram(
            "llm_d_epp_encoder_cache_hit_ratio",
            "Share of a request's media that the chosen endpoint was believed to hold",
            plugin,
            buckets=_RATIOS,
        ).labels(self.type, self.name)

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def consumes(self) -> Sequence[str]:
        return (self._prompt_key,)

    def produce(self, request: Request, candidates: Candidates) -> None:
        media = self._media(request)
        matched = np.zeros(self.handle.fleet.capacity)
        for endpoint in candidates if media else ():
            held = self._held.get(endpoint)
            if held:
                matched[endpoint.row] = sum(medium.tokens for key, medium in media.items() if key in held)
        request.data[self._key] = EncoderMatch(matched, float(sum(medium.tokens for medium in media.values())))

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        media = self._media(request)
        if not media:
            return
        encoding = result.profiles.get(self.params.encode_profile_name)
        endpoint = encoding.endpoints[0] if encoding is not None and encoding.endpoints else result.target
        if not endpoint.alive:
            return
        held = self._held.setdefault(endpoint, OrderedDict())
        self._count(endpoint, media, held)
        for content_hash in media:
            held[content_hash] = None
            held.move_to_end(content_hash)
        while len(held) > self._capacity:
            held.popitem(last=False)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._held.pop(endpoint, None)

    def _media(self, request: Request) -> dict[bytes, Medium]:
        """By content hash: a medium that is there twice is encoded once."""
        prompt: TokenizedPrompt | None = request.data.get(self._prompt_key)
        return {medium.content_hash: medium for medium in prompt.media} if prompt is not None else {}

    def _count(self, endpoint: Endpoint, media: Mapping[bytes, Medium], held: Container[bytes]) -> None:
        hits = 0
        for content_hash, medium in media.items():
            self._queries.labels(self.type, self.name, medium.kind).inc()
            if content_hash in held:
                hits += 1
                self._hits.labels(self.type, self.name, endpoint.name, medium.kind).inc()
        self._hit_ratio.observe(hits / len(media))
