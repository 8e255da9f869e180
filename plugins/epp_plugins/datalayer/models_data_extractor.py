"""models-data-extractor: which models and adapters each server serves."""

from __future__ import annotations

import msgspec

from epp.api import MODELS, Endpoint, Extractor, ServedModel


class _Entry(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Entry]


_DECODER = msgspec.json.Decoder(_Answer)


class ModelsDataExtractor(Extractor):
    """Keeps what `/v1/models` says as the endpoint attribute `/v1/models`: a tuple of ServedModel (id, and base of an adapter).

    Same attribute as the Go EPP's models-data-extractor.
    """

    type = "models-data-extractor"

    def extract(self, endpoint: Endpoint, body: bytes) -> None:
        answer = _DECODER.decode(body)  # its errors are ValueErrors that say where
        endpoint.attributes[MODELS] = tuple(ServedModel(entry.id, entry.parent or "") for entry in answer.data)

    def forget(self, endpoint: Endpoint) -> None:
        endpoint.attributes.pop(MODELS, None)
