"""What a control plane has stored, past its API server, which tells its watchers of what is put here as of any change."""

from __future__ import annotations

import base64
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

_PAGE: Final = 500  # a Pod may have many kilobytes


class Etcd:
    """Use with `async with`. Keys and values are base64, as etcd's JSON gateway has them."""

    def __init__(self, socket: Path) -> None:
        self._http = aiohttp.ClientSession(
            "http://etcd", connector=aiohttp.UnixConnector(str(socket), limit=0), raise_for_status=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def under(self, prefix: str) -> dict[str, str]:
        """All values whose keys begin with it."""
        start, end = prefix.encode(), prefix.encode() + b"\xff"
        found: dict[str, str] = {}
        while True:
            page = await self._ask("range", key=_text(start), range_end=_text(end), limit=_PAGE)
            found |= {kv["key"]: kv["value"] for kv in page.get("kvs", ())}
            if not page.get("more"):
                return found
            start = base64.b64decode(page["kvs"][-1]["key"]) + b"\0"

    async def put(self, key: str, value: str) -> None:
        await self._ask("put", key=key, value=value)

    async def _ask(self, what: str, **body: object) -> dict[str, Any]:
        async with self._http.post(f"/v3/kv/{what}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            return answer


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
