"""Errors that a client gets, in the JSON that vLLM answers with."""

from __future__ import annotations

import msgspec
from aiohttp import web

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class ApiError(Exception):
    """Answer with this status. The message goes to the client."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> bytes:
        kind = TYPES.get(self.status, "APIError")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})

    def response(self, headers: dict[str, str]) -> web.Response:
        return web.Response(body=self.body(), status=self.status, content_type="application/json", headers=headers)
