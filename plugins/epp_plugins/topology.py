"""How near two endpoints are: the tightest place that they share, by the labels of their nodes."""

from __future__ import annotations

import enum
from typing import Final

from epp.api import Endpoint

# The closest first. The labels are Kubernetes' own, copied from nodes to pods or written into an endpoints file.
_LABELS: Final = (
    "kubernetes.io/hostname",
    "topology.kubernetes.io/rack",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)


class Level(enum.IntEnum):
    """What two endpoints share; the larger the nearer. Who shares a host shares all the rest."""

    NONE = 0
    REGION = 1
    ZONE = 2
    RACK = 3
    HOST = 4


def shared_level(one: Endpoint, other: Endpoint) -> Level:
    """The tightest level whose label both have with the same value that is not empty."""
    for level, label in zip(reversed(Level), _LABELS, strict=False):
        value = one.labels.get(label)
        if value and value == other.labels.get(label):
            return level
    return Level.NONE
