"""What the test node is told when it starts: where the API server is, its network, and what its images are."""

from __future__ import annotations

import msgspec


class Image(msgspec.Struct, frozen=True):
    """Programs of this machine under the name of a container image."""

    name: str
    """Without registry, tag and digest."""
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    user: int = 0
    group: int = 0
    folder: str = "/"
    links: dict[str, str] = {}
    """Symbolic links that the image has: path to target."""

    def is_meant(self, reference: str) -> bool:
        """Whether `registry/path/name:tag@digest` is this one."""
        return reference.partition("@")[0].rpartition("/")[2].partition(":")[0] == self.name


class Settings(msgspec.Struct, frozen=True):
    node: str
    folder: str
    api_host: str
    api_port: int
    api_ca: str
    api_token: str
    bridge: str
    gateway: str
    """The node's own address on the bridge; those of Pods have the same first three numbers."""
    images: tuple[Image, ...]
    visible: tuple[str, ...]
    """Folders of this machine that every container can read, whoever it runs as."""
    patience: float
    """Probes wait so many times as long as they say, for a machine that does more than serve."""
    read_again_s: float
    """How often ConfigMaps, Secrets and tokens are looked at again."""
