"""How near two endpoints are: the tightest place that they share, by the labels of their nodes."""

from __future__ import annotations

import enum
from typing import Final

from epp.api import Endpoint

TOPOLOGY: Final = "Topology"  # the attribute of an endpoint that topology-extractor keeps: a Topology

# The closest first. The labels are Kubernetes' own, copied from nodes to pods or written into an endpoints file.
LABELS: Final = (
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


class Topology:
    """Where an endpoint stands, by the labels that are named for host, rack, zone and region, as they are now."""

    __slots__ = ("_endpoint", "_labels")

    def __init__(self, endpoint: Endpoint, labels: tuple[str, str, str, str] = LABELS) -> None:
        self._endpoint = endpoint
        self._labels = labels

    @property
    def places(self) -> tuple[str, str, str, str]:
        """Host, rack, zone and region; "" where it is not known."""
        labels = self._endpoint.labels
        host, rack, zone, region = (labels.get(label, "") for label in self._labels)
        return host, rack, zone, region

    def __str__(self) -> str:
        return "/".join(self.places)


def shared_level(one: Endpoint, other: Endpoint) -> Level:
    """The tightest level that both tell and that is the same: by their topology attributes, else by their labels."""
    places = zip(reversed(Level), _topology(one).places, _topology(other).places, strict=False)
    return next((level for level, here, there in places if here and here == there), Level.NONE)


def _topology(endpoint: Endpoint) -> Topology:
    extracted = endpoint.attributes.get(TOPOLOGY)
    return extracted if isinstance(extracted, Topology) else Topology(endpoint)
