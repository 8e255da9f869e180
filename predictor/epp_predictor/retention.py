"""Which samples are kept: the newest of every situation, and none that is too old.

Busy hours would push out what is known of quiet ones if only the newest samples were kept. So samples are sorted into
strata, those of upstream's training server (5 of waiting requests, 20 of KV cache, 4 of prefix hit), and each keeps its
newest. Unlike there, age ends every sample: a stratum that is not refilled would otherwise teach for ever how the
servers were before they changed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp_predictor.features import COLUMN, Floats
from epp_predictor.samples import FIRST_FEATURE, TIME

_WAITING_EDGES: Final = np.array([1.0, 3.0, 6.0, 11.0])
_KV_STRATA: Final = 20
_PREFIX_STRATA: Final = 4
STRATA: Final = (len(_WAITING_EDGES) + 1) * _KV_STRATA * _PREFIX_STRATA


def strata_of(rows: Floats) -> NDArray[np.intp]:
    """Per row, 0 to STRATA - 1."""
    waiting = np.searchsorted(_WAITING_EDGES, rows[:, FIRST_FEATURE + COLUMN["num_request_waiting"]], "right")
    kv = _band(rows[:, FIRST_FEATURE + COLUMN["kv_cache_percentage"]], _KV_STRATA)
    prefix = _band(rows[:, FIRST_FEATURE + COLUMN["prefix_cache_score"]], _PREFIX_STRATA)
    return (waiting * _KV_STRATA + kv) * _PREFIX_STRATA + prefix


def _band(share: Floats, bands: int) -> NDArray[np.intp]:
    return np.minimum((share * bands).astype(np.intp), bands - 1)


def retained(rows: Floats, *, now_s: float, max_age_s: float, per_stratum: int, newest: int) -> NDArray[np.bool_]:
    """Which rows stay: the `newest` ones of all, and the newest `per_stratum` of each stratum, if not older than
    `max_age_s`."""
    young = rows[:, TIME] >= now_s - max_age_s
    order = np.lexsort((-rows[:, TIME], strata_of(rows)))
    strata = strata_of(rows)[order]
    starts = np.flatnonzero(np.r_[True, strata[1:] != strata[:-1]]) if len(strata) else np.zeros(0, dtype=np.intp)
    place = np.arange(len(strata)) - np.repeat(starts, np.diff(np.r_[starts, len(strata)]))
    kept = np.zeros(len(rows), dtype=bool)
    kept[order[place < per_stratum]] = True
    if newest:
        kept[np.argsort(rows[:, TIME], kind="stable")[-newest:]] = True
    return kept & young
