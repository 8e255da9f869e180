"""What plugins see of one request and of its response."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, ClassVar, Final

import msgspec

from epp.api.endpoint import Endpoint
from epp.api.fleet import Candidates, Floats


class Medium(msgspec.Struct, frozen=True):
    """An image, a video or an audio of a prompt: equal `content_hash`, equal content. `tokens` it takes, or 1 where unknown.

    `kind` is `image`, `video`, `audio`, or `file` for anything else; size and duration are 0 where nobody knows them. Where the
    model server has rendered the prompt, `identifier` is its name for the medium, and `offset` says where in the tokens of
    which `prompt` it begins; the identifier is empty otherwise.
    """

    content_hash: bytes
    tokens: int = 1
    identifier: str = ""
    prompt: int = 0
    offset: int = 0
    kind: str = ""
    width: int = 0  # pixels
    height: int = 0
    seconds: float = 0.0
    at: int = 0  # where it begins in the prompt's data

    @property
    def length(self) -> int:
        """The same as `tokens`."""
        return self.tokens


class Prompt(msgspec.Struct, frozen=True):
    """What a prefix cache sees of one prompt.

    `data` is canonical text bytes (roles, texts and media in the order in which the model sees them; a medium is its hash
    and as many bytes as its tokens take), or token ids as little-endian uint32 when `tokenized`. Equal prefixes of `data`
    mean equal prefixes of the model's input.
    """

    data: bytes
    tokenized: bool = False
    size_bytes: int = 0  # where `data` is only the beginning: the length of all of it
    media: tuple[Medium, ...] = ()  # none where they came as token ids

    @property
    def token_count(self) -> int:
        """Tokens: exact when tokenized, else estimated at four bytes each, rounded up. Both are ceil(bytes / 4)."""
        return ((self.size_bytes or len(self.data)) + 3) // 4


class Usage(msgspec.Struct, frozen=True):
    """Token counts that the model server reported. None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None


class Payload:
    """What a parser understood of a request body. Parsers subclass it where the model name can be replaced.

    With `model_required` a request whose body names no model, and that no rewrite gives one, is refused.
    """

    model_required: ClassVar[bool] = False

    __slots__ = (
        "_prompt_tokens",
        "cache_salt",
        "choices",
        "max_output_tokens",
        "model",
        "prompts",
        "skip_response",
        "streaming",
    )

    def __init__(
        self,
        *,
        model: str | None = None,
        prompts: tuple[Prompt, ...] = (),
        streaming: bool = False,
        cache_salt: str = "",
        max_output_tokens: int | None = None,
        choices: int = 1,
        skip_response: bool = False,
    ) -> None:
        self.model = model  # None: this kind of body has no model name, or the client left it out where it may
        self.prompts = prompts
        self._prompt_tokens: int | None = None
        self.streaming = streaming
        self.cache_salt = cache_salt
        self.max_output_tokens = max_output_tokens  # of each choice
        self.choices = choices  # that are generated side by side; the server's usage counts the tokens of all
        self.skip_response = skip_response  # the response is of no interest: the conversation may end at once

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, estimated as `Prompt.token_count` says."""
        if self._prompt_tokens is None:
            self._prompt_tokens = sum([p.token_count for p in self.prompts])
        return self._prompt_tokens

    def replace_prompts(self, prompts: tuple[Prompt, ...]) -> None:
        """Other words for the same prompts, such as with media that are counted otherwise."""
        self.prompts = prompts
        self._prompt_tokens = None

    def forget_prompts(self) -> None:
        """Free the prompts' text; the number of tokens stays known. Called when the destination is known."""
        self._prompt_tokens = self.prompt_tokens
        self.prompts = ()

    def with_model(self, body: bytes, model: str) -> bytes:
        """`body`, the one that was parsed, with the model name replaced. Bodies that hold none come back unchanged."""
        return body


NO_PAYLOAD: Final = Payload()
"""Of requests without a body, or whose body has not been read."""


class Slo(msgspec.Struct, frozen=True):
    """Service level objectives for latency, milliseconds. One that there is not is infinite: always met."""

    ttft_ms: float = inf  # to the first token
    tpot_ms: float = inf  # for each further one


NO_SLO: Final = Slo()


class Request:
    """One request on its way to an endpoint. Plugins may read all of it and write `data`, `state` and `set_headers`.

    Times are seconds of the handle's clock. `data` holds what data producers published, by `data_key`. `state` is scratch
    space for a plugin's own use during the life of the request; use the plugin object as key.
    """

    __slots__ = (
        "body",
        "candidates",
        "data",
        "fairness_id",
        "headers",
        "id",
        "incoming_model",
        "method",
        "model",
        "objective",
        "objective_slo",
        "path",
        "payload",
        "priority",
        "received_s",
        "result",
        "set_headers",
        "size_bytes",
        "state",
    )

    def __init__(self, id: str, headers: Mapping[str, str], *, received_s: float = 0.0) -> None:
        self.id = id
        self.headers = headers  # lower-case names; of repeated headers the last
        self.method = headers.get(":method", "POST")
        self.path = headers.get(":path", "")
        self.received_s = received_s
        self.payload = NO_PAYLOAD
        self.body = b""  # as it was parsed, decompressed; empty once the destination is known
        self.size_bytes = 0
        self.incoming_model = ""
        self.model = ""  # what is sent on: the incoming model or its rewrite
        self.objective = ""
        self.objective_slo = NO_SLO  # where its headers ask for nothing else
        self.priority = 0
        self.fairness_id = ""
        self.candidates: Candidates | None = None
        self.result: SchedulingResult | None = None
        self.data: dict[str, Any] = {}
        self.state: dict[object, Any] = {}
        self.set_headers: dict[str, str] = {}  # added to the request that goes upstream


class Termination(enum.Enum):
    """How a request ended."""

    COMPLETE = "complete"
    CLIENT_DISCONNECT = "client-disconnect"
    ERROR = "error"
    EVICTED = "evicted"


class Response(msgspec.Struct, eq=False):
    """One response as far as it has been seen. Times are seconds of the handle's clock, None until they happen."""

    status: int = 0  # HTTP status, 0 before the headers
    headers: Mapping[str, str] = {}
    streaming: bool = False
    # ip:port, as the proxy reports it; None when it sent no metadata, empty when they lack the key
    served_endpoint: str | None = None
    set_headers: dict[str, str] = {}  # added to the response that goes to the client
    dynamic_metadata: dict[str, dict[str, Any]] = {}
    body_seen: bool = False  # the proxy sends response bodies
    chunks: int = 0
    size_bytes: int = 0
    usage: Usage | None = None
    started_s: float | None = None
    first_chunk_s: float | None = None
    last_chunk_s: float | None = None
    ended_s: float | None = None
    termination: Termination = Termination.COMPLETE
    refusal: str = ""  # the code of the error that the picker answered with, see `epp.api.Code`


class ProfileResult(msgspec.Struct, frozen=True):
    """What one profile chose: `endpoints` in the picker's order, and every candidate's total score (same order).

    `scorers` are the names of its scorers and `by_scorer` what they returned, None where one failed: see `raw_scores`.
    """

    endpoints: tuple[Endpoint, ...]
    candidates: Candidates
    scores: Floats
    scorers: tuple[str, ...] = ()
    by_scorer: Sequence[Floats | None] = ()

    @property
    def raw_scores(self) -> Mapping[str, Floats]:
        """What each scorer that did not fail said of the candidates, by its name, also of weight 0: numbers in [0, 1], before
        the weight. For reading only. Made when it is asked for."""
        pairs = zip(self.scorers, self.by_scorer, strict=False)
        return MappingProxyType({name: _read_only(scores) for name, scores in pairs if scores is not None})


def _read_only(scores: Floats) -> Floats:
    view = scores.view()
    view.flags.writeable = False
    return view


class SchedulingResult:
    """Results by profile name (None where a profile found nothing) and the profile that decides the destination.

    `endpoints` is the destination list: `target`, which is expected to serve the request, then those to retry on. Where the
    primary profile found nothing, both raise LookupError. A handler may give another `destination` (`ip:port`) to send the
    request to, such as a sidecar that passes it on.
    """

    __slots__ = ("_endpoints", "destination", "primary", "profiles")

    def __init__(self, profiles: Mapping[str, ProfileResult | None], primary: str, *, destination: str = "") -> None:
        if destination and not (isinstance(destination, str) and destination.isascii() and destination.isprintable()):
            raise ValueError(f"a destination is ip:port, got {destination!r}")
        self.profiles = profiles
        self.primary = primary
        self.destination = destination
        result = profiles.get(primary)
        self._endpoints = () if result is None else result.endpoints

    @property
    def target(self) -> Endpoint:
        return self.endpoints[0]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        if not self._endpoints:
            raise LookupError(f"profile {self.primary!r} chose no endpoint")
        return self._endpoints
