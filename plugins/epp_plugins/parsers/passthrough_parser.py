"""passthrough-parser: any body, unread."""

from __future__ import annotations

from collections.abc import Mapping

from epp.api import Parser, Payload


class PassthroughParser(Parser):
    """The fallback for every path: no model name, no prompt, no usage, no checks."""

    type = "passthrough-parser"
    reads_body = False

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        return Payload()
