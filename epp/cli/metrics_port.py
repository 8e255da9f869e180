"""Asks a running EPP's metrics port, for commands that show what it says."""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple

_TIMEOUT_S: Final = 30.0


class Unanswered(Exception):
    """There is nothing to show; the text says why."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which port, and by whose leave."""
    parser.add_argument("--url", default="http://127.0.0.1:9090", help="the EPP's metrics port (default: %(default)s)")
    parser.add_argument("--token-file", metavar="FILE", help="token of an account that may read the EPP's pages")


class MetricsPort(NamedTuple):
    """The token is read for each request: such files change."""

    url: str
    token_file: str | None

    @classmethod
    def of(cls, parser: argparse.ArgumentParser, options: argparse.Namespace) -> MetricsPort:
        """What the flags say. Ends the program with status 2 for what is no URL."""
        if not options.url.startswith(("http://", "https://")):
            parser.error(f"--url {options.url!r}: expected http://HOST:PORT")
        return cls(options.url.rstrip("/"), options.token_file)

    def read(self, path: str) -> bytes:
        """A page. Raises Unanswered."""
        address = self.url + path
        request = urllib.request.Request(address)
        if self.token_file is not None:
            try:
                request.add_header("Authorization", f"Bearer {Path(self.token_file).read_text().strip()}")
            except (OSError, ValueError) as error:
                raise Unanswered(f"--token-file {self.token_file}: {error}") from error
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                page: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise Unanswered(_refusal(error)) from error
        except (OSError, ValueError) as error:
            raise self._silent(address, getattr(error, "reason", None) or error) from error
        except http.client.HTTPException as error:
            raise self._silent(address, "what listens there is no HTTP server") from error
        return page

    def get(self, path: str) -> Any:
        """The JSON of a page. Raises Unanswered."""
        try:
            return json.loads(self.read(path))
        except ValueError as error:
            raise self._silent(self.url + path, error) from error

    def _silent(self, address: str, reason: object) -> Unanswered:
        return Unanswered(f"{address} does not answer: {reason}; --url names the EPP's metrics port")


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return (
            f"{error.url} answers with status {error.code}: its pages are for accounts that may get /metrics;"
            " --token-file names a file with the token of one"
        )
    try:
        told = json.load(error)["error"]
    except (ValueError, KeyError, TypeError):
        told = None
    if isinstance(told, str):
        return told
    return f"{error.url} answers with status {error.code}; --url names the EPP's metrics port"
