"""Models in files: read if they are sound, written whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from epp_predictor.codec import LARGEST_BYTES, BadSnapshot
from epp_predictor.servers.serving import ServedTarget, decode

logger = logging.getLogger(__name__)


def read_model(path: Path, target: str) -> tuple[ServedTarget, bytes] | None:
    """The model and its bytes. None, and a warning, when there is no file or it cannot be used."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise BadSnapshot(f"expected at most {LARGEST_BYTES} bytes")
        data = path.read_bytes()
        return decode(data, target), data
    except FileNotFoundError:
        return None
    except (OSError, BadSnapshot) as error:
        logger.warning("%s is left out: %s", path, error)
        return None


def write_model(data: bytes, path: Path) -> None:
    """A folder that cannot be written costs the copy, not the service."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.warning("no copy of the model in %s: %s", path, error)
