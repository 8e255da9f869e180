"""The servers that a producer of predictions uses instead of its own model, as its parameters name them."""

from __future__ import annotations

from urllib.parse import urlsplit

from epp.api import ConfigError, Handle
from epp_plugins.latency_servers.prediction_client import PredictionClient
from epp_plugins.latency_servers.training_client import TrainingClient


def urls(text: str, *, parameter: str) -> tuple[str, ...]:
    """URLs with commas between them. Raises ConfigError that names `parameter`."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for url in found:
        if not _is_server(url):
            raise ConfigError(f"{parameter}: expected http://HOST:PORT, got {url!r}")
    return found


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no port, or an IPv6 address lacks a bracket
        return False


def prediction_client(
    handle: Handle, text: str, *, window_ms: float, deadline_ms: float, most_rows: int, most_calls: int
) -> PredictionClient | None:
    """None where `text` names no server."""
    found = urls(text, parameter="predictionServerUrl")
    if not found:
        return None
    return PredictionClient(
        handle,
        found,
        window_s=window_ms / 1e3,
        deadline_s=deadline_ms / 1e3,
        most_rows=most_rows,
        most_calls=most_calls,
    )


def training_client(
    handle: Handle, text: str, *, interval_s: float, most: int, timeout_s: float
) -> TrainingClient | None:
    """None where `text` names no server."""
    found = urls(text, parameter="trainingServerUrl")
    if not found:
        return None
    if len(found) > 1:
        raise ConfigError(f"trainingServerUrl: expected one URL, got {len(found)}")
    return TrainingClient(handle, found[0], interval_s=interval_s, most=most, timeout_s=timeout_s)
