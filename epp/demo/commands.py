"""What to try while the demo is kept up: shell lines that work as they stand. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

_JSON: Final = "-H 'content-type: application/json'"


def commands(*, envoy_url: str, round_robin_url: str, metrics_url: str, log: Path, model: str) -> dict[str, str]:
    """What each shows → the line."""
    request = {"model": model, "max_tokens": 24, "messages": [{"role": "user", "content": "tell me a story"}]}
    path = "v1/chat/completions"
    chat, stream = (f"{_JSON} -d '{json.dumps(body)}'" for body in (request, {**request, "stream": True}))
    return {
        "a chat through Envoy and the EPP": f"curl -s {envoy_url}/{path} {chat}",
        "the same, streamed": f"curl -sN {envoy_url}/{path} {stream}",
        "the last picks, and what became of them": f"curl -s {metrics_url}/debug/requests",
        "what the EPP knows of each server": f"curl -s {metrics_url}/debug/endpoints",
        "its metrics": f"curl -s {metrics_url}/metrics",
        "its log": f"tail -f {log}",
        "without the EPP: round robin": f"curl -s {round_robin_url}/{path} {chat}",
    }
