"""Has the C library keep what is freed for the next request, instead of handing it back to the kernel each time."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

# mallopt(3). Setting any of them ends glibc's own guessing, which takes a body of some hundred kilobytes from the kernel and
# gives it back for every request: each page of it costs a fault.
_OPTIONS: Final = (
    (-3, 4 << 20),  # M_MMAP_THRESHOLD: what is larger gets pages of its own, and gives them back when it is freed
    (-1, 16 << 20),  # M_TRIM_THRESHOLD: as much may lie idle at the end of the heap
    (-2, 1 << 20),  # M_TOP_PAD: what the heap grows by
)


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Whether it did: not where the C library is another, nor where the environment says how memory is to be handled."""
    if "glibc.malloc" in environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) for option, value in _OPTIONS)
