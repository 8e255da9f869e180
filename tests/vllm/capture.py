"""Writes down what a real vLLM publishes, as a fixture: `python -m tests.vllm.capture http://127.0.0.1:PORT NAME ...`.

Run against a server of `prefork.py`, whose hash algorithm, seed and block size are given as NAME=value; the file goes to
tests/fixtures/kv_events. Prompts are chosen to show chains, a cache salt, repeated blocks, and blocks that are dropped.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import zmq

FOLDER: Final = Path(__file__).parents[1] / "fixtures" / "kv_events"
_QUIET_MS: Final = 1500


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def prompts(block_size: int) -> list[dict[str, Any]]:
    """Requests: one prompt twice, one that goes on from it, one with a salt, and as many others as overflow the cache."""
    text = " ".join(f"the {i}th word of a long text about caches" for i in range(block_size // 2))
    other = " ".join(f"another text, line {i}" for i in range(block_size))
    return [
        {"prompt": text},
        {"prompt": text},
        {"prompt": text + " and it goes on for a while" * 12},
        {"prompt": text, "cache_salt": "pepper"},
        *({"prompt": f"{n} {other}"} for n in range(6)),
    ]


def capture(url: str, name: str, facts: dict[str, Any]) -> Path:
    with urllib.request.urlopen(f"{url}/kv_event_sources", timeout=10) as answer:
        source = json.load(answer)["0"]
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(source["endpoint"])
    time.sleep(1.0)  # PUB tells nobody who has not arrived yet, and does not say who has
    asked = []
    for request in prompts(int(facts["block_size"])):
        tokens = post(f"{url}/tokenize", {"model": "tiny", "prompt": request["prompt"]})["tokens"]
        usage = post(f"{url}/v1/completions", {"model": "tiny", "max_tokens": 1, **request})["usage"]
        details = usage.get("prompt_tokens_details") or {}
        asked.append({**request, "tokens": tokens, "cached_tokens": details.get("cached_tokens", 0)})
    frames = []
    while socket.poll(_QUIET_MS):
        frames.append([base64.b64encode(f).decode() for f in socket.recv_multipart()])
    context.destroy(linger=0)
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(frame) for frame in frames)
    path.write_text(f'{{"facts": {json.dumps(facts)},\n"requests": {json.dumps(asked)},\n"frames": [\n{lines}\n]}}\n')
    return path


if __name__ == "__main__":
    print(capture(sys.argv[1], sys.argv[2], dict(fact.split("=", 1) for fact in sys.argv[3:])))
