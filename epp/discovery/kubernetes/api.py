"""A connection to a Kubernetes API server: requests in, plain objects or typed errors out.

Below it is the official client, for credentials, TLS and proxies. Objects stay what they are on the wire: building a model
object for every Pod of an event costs more than all that is done with it. Who follows objects decodes the few fields that it
needs (`RawObject`); who asks for one gets a dict.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlencode

import aiohttp
import msgspec

from epp.discovery.kubernetes.credentials import Source, load
from epp.discovery.kubernetes.errors import ApiError, Gone, Rule, Silent, Status, Unauthorized, Unavailable, error_of
from epp.discovery.kubernetes.resources import Resource

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

RawObject: TypeAlias = msgspec.Raw
"""The JSON of one object, as the server sent it."""

REQUEST_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0
_JSON: Final = "application/json"
_MAX_EVENT_BYTES: Final = 16 << 20  # etcd holds objects of 1.5 MiB

_encode = msgspec.json.Encoder().encode


class ListMeta(msgspec.Struct, rename="camel"):
    """Of a page: where a watch begins, and how to get the rest."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """Some of the objects of a list."""

    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[RawObject] | None = None


class WatchEvent(msgspec.Struct):
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: RawObject


_pages: Final = msgspec.json.Decoder(Page)
_events: Final = msgspec.json.Decoder(WatchEvent)
_statuses: Final = msgspec.json.Decoder(Status)
_objects: Final = msgspec.json.Decoder(dict[str, Any])


class Api:
    """Use `connect`, and `close` at the end. Every method raises an ApiError; all may be used at the same time.

    When the server does not know us any more, credentials are read again and the request is sent once more.
    """

    def __init__(self, source: Source, *, user_agent: str) -> None:
        self._source = source
        self._user_agent = user_agent
        self._client: ApiClient | None = None
        self._closed = False

    @classmethod
    async def connect(cls, source: Source, *, user_agent: str = "llm-epp") -> Api:
        """Read the credentials; nothing is sent. Raises CredentialsError."""
        api = cls(source, user_agent=user_agent)
        await api._renew(None)
        return api

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            await self._client.close()

    # --- one object ------------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str) -> dict[str, Any]:
        return await self._json("GET", resource.path(name), _rule(resource, "get"))

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object as the server has made it. Reviews are created, too: their answer is the status."""
        return await self._json("POST", resource.path(), _rule(resource, "create"), body)

    async def replace(self, resource: Resource, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Conflict when `body` is of an older resourceVersion."""
        return await self._json("PUT", resource.path(name), _rule(resource, "update"), body)

    async def fetch(self, path: str) -> dict[str, Any]:
        """Any page that is a JSON object, such as /version or /apis."""
        return await self._json("GET", path, Rule("", path, "get"))

    # --- all objects of a kind -------------------------------------------------------------------------------------------

    async def page(
        self, resource: Resource, *, selectors: Mapping[str, str] | None = None, limit: int = 0, continue_: str = ""
    ) -> Page:
        """One page of the objects. `selectors`: labelSelector, fieldSelector. Raises Gone when `continue_` is too old."""
        query: dict[str, str] = dict(selectors or {})
        if limit:
            query["limit"] = str(limit)
        if continue_:
            query["continue"] = continue_
        rule = _rule(resource, "list")
        async with self._answer("GET", resource.path(), rule, query=query) as response:
            body = await _read(response, rule)
        try:
            return _pages.decode(body)
        except msgspec.DecodeError as error:
            raise Unavailable(f"list {resource.plural}: the answer is not a list: {error}") from error

    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        *,
        selectors: Mapping[str, str] | None = None,
        lasts_s: int,
        silence_s: float,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[list[WatchEvent], None]:
        """What happens after `resource_version`, as it comes: some events at a time, until the server ends it.

        The server is asked to end it after `lasts_s`, and to send bookmarks. Raises Silent when nothing at all comes
        for `silence_s`, and Gone when the version is too old. `opened` is called once the server has agreed to watch. Close the
        iterator (aclosing) when done.
        """
        query = {
            **(selectors or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(lasts_s),
        }
        rule = _rule(resource, "watch")
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        answer_s = min(REQUEST_TIMEOUT_S, silence_s)
        async with self._answer(
            "GET", resource.path(), rule, query=query, timeout=timeout, answer_s=answer_s
        ) as response:
            _keep_alive(response)
            if opened is not None:
                opened()
            rest = b""
            while chunk := await _chunk(response, rule):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_EVENT_BYTES:
                    raise Unavailable(f"watch {resource.plural}: an event is larger than {_MAX_EVENT_BYTES} bytes")
                if lines:
                    yield [_event(line, rule) for line in lines if line]

    # --- requests --------------------------------------------------------------------------------------------------------

    async def _json(self, method: str, path: str, rule: Rule, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        async with self._answer(method, path, rule, body=body) as response:
            read = await _read(response, rule)
        try:
            return _objects.decode(read)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{rule.verb} {rule.resource}: the answer is no object: {error}") from error

    def _answer(
        self,
        method: str,
        path: str,
        rule: Rule,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
        answer_s: float = REQUEST_TIMEOUT_S,
    ) -> _Answer:
        url = path + ("?" + urlencode(query) if query else "")
        return _Answer(self, method, url, rule, body, timeout, answer_s)

    async def _renew(self, before: ApiClient | None) -> ApiClient:
        """The client, with credentials read anew unless somebody has done that since `before` was in use."""
        if self._client is not None and self._client is not before:
            return self._client
        from kubernetes.aio.client import ApiClient

        client = ApiClient(await load(self._source))
        client.user_agent = self._user_agent
        if self._closed or self._client is not before:  # in the meantime
            await client.close()
            assert self._client is not None
            return self._client
        self._client = client
        if before is not None:
            await before.close()  # ends watches that have the old credentials: they begin again where they are
        return client


class _Answer:
    """One request, for as long as its answer is read. The answer has to begin within `answer_s`."""

    def __init__(
        self,
        api: Api,
        method: str,
        url: str,
        rule: Rule,
        body: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout | None,
        answer_s: float,
    ) -> None:
        self._api = api
        self._method = method
        self._url = url
        self._rule = rule
        self._body = body
        self._timeout = timeout or aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._answer_s = answer_s
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        client = self._api._client
        assert client is not None
        try:
            return await self._send(client)
        except (Unauthorized, _Untrusted) as error:
            try:
                client = await self._api._renew(client)
            # A file that is just being written, a helper program that fails: the next attempt reads it again.
            except Exception as failed:
                raise error from failed
        return await self._send(client)

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            # Closed, not given back: a watch that was left in the middle would be read to its end.
            if self._response.content.is_eof():
                self._response.release()
            else:
                self._response.close()
            self._response = None

    async def _send(self, client: ApiClient) -> aiohttp.ClientResponse:
        rule = self._rule
        what = f"{rule.verb} {rule.resource}"
        headers = {"Accept": _JSON, "Content-Type": _JSON, "User-Agent": client.user_agent}
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"], self._url, self._method, None)
            async with asyncio.timeout(self._answer_s):
                answer = await client.call_api(
                    self._method,
                    client.configuration.host + self._url,
                    headers,
                    self._body,
                    _request_timeout=self._timeout,
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise _Untrusted(f"{what}: the API server's certificate is not trusted: {error}") from error
        except TimeoutError as error:  # whose own text has the whole URL, which is another one each time
            raise Unavailable(f"{what}: no answer in time") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: the session was closed by somebody who has read new credentials.
            raise Unavailable(f"{what}: {type(error).__name__}: {error}") from error
        response: aiohttp.ClientResponse = answer.response
        self._response = response
        if response.status < 400:
            return response
        try:
            raise error_of(_status(response.status, await _read(response, rule)), rule, response.headers)
        finally:
            await self.__aexit__()


class _Untrusted(Unavailable):
    """The server's certificate is signed by nobody we know: perhaps the authority is a new one."""


def _rule(resource: Resource, verb: str) -> Rule:
    return Rule(resource.group, resource.plural, verb, resource.namespace)


def _status(code: int, body: bytes) -> Status:
    try:
        status = _statuses.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError):  # a proxy's page, say
        status = Status(message=body[:200].decode("utf-8", "replace").strip())
    status.code = code
    return status


def _event(line: bytes, rule: Rule) -> WatchEvent:
    """Raises the error that an ERROR event carries."""
    try:
        event = _events.decode(line)
    except msgspec.DecodeError as error:
        raise Unavailable(f"watch {rule.resource}: a line is not an event: {error}") from error
    if event.type != "ERROR":
        return event
    try:
        status = _statuses.decode(event.object)
    except msgspec.DecodeError as error:
        raise Unavailable(f"watch {rule.resource}: an error that is not a status: {error}") from error
    if status.reason == "Expired":
        raise Gone(f"watch {rule.resource}: {status.message}", 410, status.reason)
    raise error_of(status, rule, {})


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """A peer that has died without a word is found out within half a minute; the system's own default is two hours."""
    transport = response.connection.transport if response.connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


async def _read(response: aiohttp.ClientResponse, rule: Rule) -> bytes:
    try:
        return await response.read()
    except TimeoutError as error:
        raise Unavailable(f"{rule.verb} {rule.resource}: the answer did not come to its end in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"{rule.verb} {rule.resource}: {type(error).__name__}: {error}") from error


async def _chunk(response: aiohttp.ClientResponse, rule: Rule) -> bytes:
    """b"" at the end."""
    try:
        return await response.content.readany()
    except TimeoutError as error:
        raise Silent(f"watch {rule.resource}: the server has said nothing for too long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"watch {rule.resource}: {type(error).__name__}: {error}") from error


__all__ = ["Api", "ApiError", "ListMeta", "Page", "RawObject", "WatchEvent"]
