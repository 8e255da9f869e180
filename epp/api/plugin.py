"""Every extension point, in the order in which a request meets them.

A plugin is a class with a `type` (the name used in configuration files), an optional `Params` struct, and the methods of
the points it fills; one class may fill several. It is made once per configuration with its parameters and a `Handle`.
Methods are called on the event loop: they must not block. Those that may wait return an awaitable instead of a value.

A plugin that raises costs its own contribution, a log line and a counter, never the request, except where refusing is its
contract (Parser, RequestHeaderProcessor, Admitter, PreRequest, and RequestError from a ProfileHandler).
"""

from __future__ import annotations

import builtins
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import msgspec

from epp.api.endpoint import Endpoint
from epp.api.errors import ConfigError
from epp.api.fleet import Candidates, Fleet, Floats, Mask
from epp.api.outside import Nowhere, Outside
from epp.api.request import Payload, ProfileResult, Request, Response, SchedulingResult, Usage

P = TypeVar("P", bound="Plugin")


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For plugins without parameters."""


def deprecated(instead: str) -> msgspec.Meta:
    """Marks a parameter that is still read: `Annotated[int, deprecated("use blockSizeTokens")]`. Who writes it is told so."""
    schema = {"deprecated": True, "description": f"Deprecated: {instead}"}
    return msgspec.Meta(extra={"deprecated": instead}, extra_json_schema=schema)


class Metric(Protocol):
    """A counter, gauge or histogram; `labels` gives the child for these label values."""

    def labels(self, *values: str) -> Metric: ...
    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, amount: float) -> None: ...


class Metrics(Protocol):
    """Makes metrics. Asking twice for the same name gives the same metric."""

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric: ...
    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric: ...
    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Metric: ...


async def no_waiting(seconds: float) -> None:
    """A `Handle.sleep` that returns at once, for checks and tests."""


class Handle(msgspec.Struct, frozen=True):
    """What the service lends to a plugin. Tests pass their own clock and random source."""

    name: str  # the instance's name in the configuration
    fleet: Fleet
    clock: Callable[[], float]  # seconds, monotonic
    random: random.Random
    log: logging.Logger
    metrics: Metrics
    pool_name: str = ""
    sleep: Callable[[float], Awaitable[None]] = no_waiting  # seconds, for methods that may return an awaitable
    outside: Outside = Nowhere()  # I/O that the service does for plugins
    plugins: Mapping[str, Plugin] = {}  # those that the plugin's `refers_to` names

    def plugin(self, name: str, kind: type[P]) -> P:
        """The plugin `name`, which `refers_to` mentioned. Raises ConfigError when it is not there or is no `kind`."""
        found = self.plugins.get(name)
        if not isinstance(found, kind):
            raise ConfigError(f'"{name}" is no {kind.__name__}' if found else f'no plugin is named "{name}"')
        return found


class Plugin:
    """Base of all plugins."""

    type: ClassVar[str]
    Params: ClassVar[builtins.type[msgspec.Struct]] = NoParams
    experimental: ClassVar[bool] = False

    def __init__(self, params: Any, handle: Handle) -> None:
        self.params = params
        self.handle = handle
        self.name = handle.name

    @classmethod
    def refers_to(cls, params: Any) -> Mapping[str, tuple[str, builtins.type[Plugin]]]:
        """Other plugins that `params` name: the parameter's path (`deciders.prefill`), the plugin's name, its kind.

        They are made before this one, which gets them by `handle.plugin`.
        """
        return {}

    def produces(self) -> Sequence[str]:
        """Data keys (`epp.api.data.data_key`) that this plugin publishes."""
        return ()

    def consumes(self) -> Sequence[str]:
        """Data keys that this plugin reads. A missing producer is created where a default one exists."""
        return ()

    def consumes_if_published(self) -> Sequence[str]:
        """Data keys that this plugin reads where another plugin publishes them anyway, and can do without."""
        return ()

    def retire(self) -> Iterator[None]:
        """Free what takes long to free, about a millisecond's worth at each step; requests are served in between.

        Begun once, when a reload has replaced the plugin and its last request has ended.
        """
        return iter(())


# --- reading the request -------------------------------------------------------------------------------------------------


class UsageReader(Protocol):
    """Reads token usage from one response, chunk by chunk."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, in any split. Never raises on malformed content."""
        ...

    def finish(self) -> Usage | None:
        """The usage found, after the last chunk (or at any time: what has been found so far)."""
        ...


class Parser(Plugin):
    """Understands request bodies of some paths, and the token usage in their responses.

    Without `reads_body` it takes bodies as they are, whatever they are and however they are encoded.
    """

    reads_body: ClassVar[bool] = True
    app_protocols: ClassVar[Sequence[str]] = ()
    """What an InferencePool's `appProtocol` may be for its servers to be sent such requests; empty: anything."""

    def paths(self) -> Sequence[str]:
        """Path suffixes that this parser claims (`chat/completions`); none at all: a fallback for every path."""
        return ()

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        """Raises RequestError (BAD_REQUEST) when the body is not valid. `path` has no query and no trailing slash."""
        raise NotImplementedError

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        """A reader for this response, or None when it holds no usage. Called once, at the response headers."""
        return None

    def restore_model(self, body: bytes, *, sent: str, asked: str) -> bytes:
        """`body` (a whole JSON response, or one or more whole SSE events) naming model `asked` where it named `sent`."""
        return body


class RequestHeaderProcessor(Plugin):
    """Sees the request after its objective is known and before admission. RequestError refuses it."""

    def process_request_header(self, request: Request) -> None:
        raise NotImplementedError


# --- before scheduling ---------------------------------------------------------------------------------------------------


class SaturationDetector(Plugin):
    """Says how full a set of endpoints is."""

    def saturation(self, candidates: Candidates) -> float:
        """0 idle, 1 full, more when overloaded; 1 for no candidates."""
        raise NotImplementedError


class Screener(Plugin):
    """Narrows the candidates of the whole request. All screeners see the same candidates; their choices are intersected."""

    def screen(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        """One truth value per candidate, same order: may it stay."""
        raise NotImplementedError


class DataProducer(Plugin):
    """Publishes data in `request.data` under the keys of `produces()`."""

    timeout_s: float = 0.4  # how long `produce` may wait

    def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
        raise NotImplementedError


class Admitter(Plugin):
    """Refuses requests (RequestError) once all data about them are there."""

    def admit(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
        raise NotImplementedError


# --- scheduling ----------------------------------------------------------------------------------------------------------


class ProfileHandler(Plugin):
    """Decides which profiles run for a request, and which of their results is the destination."""

    def check_profiles(self, names: Sequence[str]) -> None:
        """Raises ConfigError when this handler cannot work with the configured profiles."""

    def pick_profiles(self, request: Request, results: Mapping[str, ProfileResult | None]) -> Iterable[str]:
        """Names of the profiles to run next, given the results so far (None: ran and found nothing). None left ends it."""
        raise NotImplementedError

    def process_results(self, request: Request, results: Mapping[str, ProfileResult | None]) -> SchedulingResult:
        """The outcome. RequestError refuses the request."""
        raise NotImplementedError


class Decider(Plugin):
    """Says to a ProfileHandler that refers to it whether a stage of a request runs on an endpoint of its own."""

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        """`endpoint` is the one that decodes; None where it is not chosen yet."""
        raise NotImplementedError


class Filter(Plugin):
    """Removes candidates within one profile."""

    def keep(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        """One truth value per candidate, same order: may it stay."""
        raise NotImplementedError


class Scorer(Plugin):
    """Rates candidates within one profile."""

    def score(self, request: Request, candidates: Candidates) -> Floats | Sequence[float]:
        """One number per candidate, same order, in [0, 1] (others are clipped), 1 best.

        The vector is kept, and must not be changed afterwards. One that cannot be written to (`flags.writeable`) is taken to
        be constant: returned again, it is not looked at again.
        """
        raise NotImplementedError


class Picker(Plugin):
    """Chooses among the scored candidates of one profile."""

    def pick(self, request: Request, candidates: Candidates, scores: Floats) -> Sequence[int]:
        """Positions within `candidates`, the best first; never empty for at least one candidate."""
        raise NotImplementedError


# --- after scheduling ----------------------------------------------------------------------------------------------------


class PreRequest(Plugin):
    """Runs when the destination is known, in the same step as the decision. RequestError refuses the request."""

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        raise NotImplementedError


class ResponseReceived(Plugin):
    """Runs at the response headers."""

    def response_received(self, request: Request, response: Response) -> None:
        raise NotImplementedError


class ResponseStreaming(Plugin):
    """Runs at each piece of the response body, where the proxy sends response bodies.

    With `first_piece_only` at the first alone: the others then cost nothing.
    """

    first_piece_only: ClassVar[bool] = False

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        raise NotImplementedError


class ResponseEnding(Plugin):
    """Runs once at the end of the response body, before that is sent on, where the proxy sends response bodies.

    `response.usage` is final; what is put into `response.dynamic_metadata` goes along with the end of the body.
    """

    def response_ending(self, request: Request, response: Response) -> None:
        raise NotImplementedError


class ResponseComplete(Plugin):
    """Runs exactly once for each request that got a destination, however it ends: see `response.termination`."""

    def response_complete(self, request: Request, response: Response) -> None:
        raise NotImplementedError


# --- what is known about endpoints ---------------------------------------------------------------------------------------


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """What to get from every endpoint, by HTTP GET, and how often."""

    path: str
    scheme: Literal["http", "https"] = "http"
    port: int = 0  # 0: that of the endpoint's metrics
    interval_s: float = 0.0  # 0: the service's own interval of reading metrics
    insecure_skip_verify: bool = True
    ca_cert_path: str = ""
    client_cert_path: str = ""
    client_key_path: str = ""
    bearer_token_path: str = ""
    accept: str = "*/*"
    max_body_bytes: int = 16 << 20
    address_label: str = ""  # labels of an endpoint that, where it has them, say where to fetch instead
    port_label: str = ""
    use_node_address: bool = False  # from the machine that the endpoint is on, where it is known


class DataSource(Plugin):
    """Says what is fetched from every endpoint. The service fetches it, and hands it to the extractors of the source."""

    def fetch(self) -> Fetch:
        """Asked once, at the start."""
        raise NotImplementedError


class Extractor(Plugin):
    """Reads what a data source has fetched, and keeps what it says in `endpoint.attributes`."""

    def extract(self, endpoint: Endpoint, body: bytes) -> None:
        """Raises ValueError for a body that it cannot use; the message says why."""
        raise NotImplementedError

    def forget(self, endpoint: Endpoint) -> None:
        """What was extracted is too old: take it away."""
        raise NotImplementedError


# --- endpoints, background work, state ------------------------------------------------------------------------------------


class ObjectKind(msgspec.Struct, frozen=True):
    """A kind of Kubernetes objects; `group` "" is the core group."""

    kind: str
    version: str = "v1"
    group: str = ""


class ObjectSource(Plugin):
    """Says which Kubernetes objects its extractors are told of: those of `kind()` in the pool's namespace."""

    def kind(self) -> ObjectKind:
        """Asked once, at the start."""
        raise NotImplementedError


class ObjectListener(Plugin):
    """Is told of Kubernetes objects that come, change and go, as an extractor of an `ObjectSource`. Never called while a
    request is decided; objects are as the API has them, and shared: nobody may change them."""

    def object_changed(self, kind: ObjectKind, obj: Mapping[str, Any]) -> None:
        """`obj` is there, for the first time or with other contents."""

    def object_removed(self, kind: ObjectKind, namespace: str, name: str) -> None:
        """It is gone."""


class EndpointListener(Plugin):
    """Is told of endpoints that come and go."""

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """`endpoint` has its row."""

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Called before the row may be reused."""

    def endpoint_relabelled(self, endpoint: Endpoint) -> None:
        """The same endpoint has other labels."""


class StateKeeper(Plugin):
    """Keeps what it has learned when the process is restarted (`--state-dir`) or its parameters change.

    Both methods are called on the event loop. What has been saved may be old: endpoints that are gone, engines that have
    restarted since.
    """

    state_version: ClassVar[int] = 1

    def save_state(self) -> Iterable[bytes]:
        """The state in pieces, each made within a millisecond or so. Requests are decided between two pieces."""
        raise NotImplementedError

    def load_state(self, state: memoryview, *, version: int) -> None:
        """Take over what `save_state` of a version up to `state_version` made, its pieces joined.

        Called before the plugin is told of any endpoint. What it raises is reported, and it then goes on with nothing.
        """
        raise NotImplementedError

    def take_over(self, predecessor: Self) -> None:
        """Go on with what `predecessor` knows, whose place this plugin takes with other parameters.

        Called before the plugin is told of any endpoint. Requests that began with the predecessor end there.
        """
        self.load_state(memoryview(b"".join(predecessor.save_state())), version=predecessor.state_version)


class Background(Plugin):
    """Works beside requests, with what `Handle.outside` offers. Nothing of it happens when a configuration is only checked."""

    def start(self) -> None:
        """Its configuration goes in force. Called once, before the first request and before any endpoint is told of."""

    def stop(self) -> None:
        """The last request that may use it has ended, or the service stops. Close and cancel whatever was begun."""


class Exporter(Plugin):
    """Hands out what it knows as a file: `/debug/plugins/export/<name>`."""

    content_type: ClassVar[str] = "application/octet-stream"

    def export(self) -> Iterable[bytes]:
        """The file in pieces, each made within a millisecond or so. Requests are decided between two pieces."""
        raise NotImplementedError


class StateDumper(Plugin):
    """Shows its state on `/debug/plugins/state`."""

    def dump_state(self) -> object:
        """Anything that can be written as JSON."""
        raise NotImplementedError


class ReadinessChecker(Plugin):
    """Keeps requests away until it is ready: health says NOT_SERVING, and /readyz says why."""

    def not_ready(self) -> str:
        """Why no requests should come yet; empty when they may. Asked at each health check, so it must be cheap."""
        raise NotImplementedError
