"""What precise-prefix-cache-producer is told in its parameters, nested as in the Go EPP, and what is made of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from epp.api import ConfigError, deprecated
from epp_plugins.kv_events.followers import Ports
from epp_plugins.kv_events.index import BlockIndex
from epp_plugins.kv_events.keys import BlockKeys, EngineKeys, TokenKeys
from epp_plugins.kv_events.vllm_hashes import ALGORITHMS, SEEDED, VllmHashes


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Checked in full where the configuration is read."""


class TokenProcessor(_Struct, frozen=True):
    """`hashAlgorithm` cbor-fnv and xxh64: keys are made from tokens on both sides, whatever the engines' algorithm, seed and
    block size. The name of an algorithm of vLLM: keys are the engines' own hashes, with `hashSeed` their PYTHONHASHSEED.
    """

    block_size_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    block_size: Annotated[int, msgspec.Meta(ge=0), deprecated("use blockSizeTokens")] = 0
    hash_seed: str = ""
    hash_algorithm: Literal["cbor-fnv", "xxh64", "sha256", "sha256_cbor", "xxhash", "xxhash_cbor"] = "cbor-fnv"

    def keys(self) -> BlockKeys:
        """Raises ConfigError where engines would have other hashes, each of its own seed."""
        if self.hash_algorithm not in ALGORITHMS:
            return TokenKeys()
        if not self.hash_seed and self.hash_algorithm not in SEEDED:
            raise ConfigError(
                f"tokenProcessorConfig.hashSeed: {self.hash_algorithm} has another seed in every engine; set PYTHONHASHSEED "
                "in all of them, and here, or leave hashAlgorithm out"
            )
        return EngineKeys(VllmHashes(self.hash_algorithm, self.hash_seed))


class InMemory(_Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(gt=0)] = 100_000_000  # blocks
    pod_cache_size: Annotated[int, msgspec.Meta(gt=0)] = 10


class CostAware(_Struct, frozen=True):
    size: str = "2GiB"


class Redis(_Struct, frozen=True):
    address: str = "redis://127.0.0.1:6379"


class BlockIndexConfig(_Struct, frozen=True):
    in_memory_config: InMemory = InMemory()
    cost_aware_memory_config: CostAware | None = None
    redis_config: Redis | None = None
    enable_metrics: bool = False
    metrics_logging_interval: int | str = 0


class Backend(_Struct, frozen=True):
    """A tier of the engines' caches, and what a block there counts."""

    name: str
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Indexer(_Struct, frozen=True):
    kv_block_index_config: BlockIndexConfig = msgspec.field(default=BlockIndexConfig(), name="kvBlockIndexConfig")
    kv_cache_backend_configs: tuple[Backend, ...] = msgspec.field(
        default=(Backend("gpu", 1.0), Backend("cpu", 0.8)), name="kvCacheBackendConfigs"
    )

    def index(self) -> BlockIndex:
        """An empty one. Raises ConfigError where tiers have no name, or one of another's."""
        tiers: dict[str, float] = {}
        for i, backend in enumerate(self.kv_cache_backend_configs):
            name = backend.name.lower()
            if not name or name in tiers:
                raise ConfigError(
                    f"indexerConfig.kvCacheBackendConfigs[{i}].name: expected another tier, got {backend.name!r}"
                )
            tiers[name] = backend.weight
        if not tiers:
            raise ConfigError("indexerConfig.kvCacheBackendConfigs: there has to be at least one")
        return BlockIndex(tiers, capacity=self.kv_block_index_config.in_memory_config.size)


class PodDiscovery(_Struct, frozen=True):
    """`socketPort` 0: every endpoint is asked for its sources (vLLM's /kv_event_sources)."""

    pod_label_selector: str = "llm-d.ai/inference-serving=true"
    pod_namespace: str = ""
    socket_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 5557
    replay_socket_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class KvEvents(_Struct, frozen=True):
    zmq_endpoint: str = ""
    topic_filter: str = "kv@"
    concurrency: Annotated[int, msgspec.Meta(gt=0)] = 4
    engine_type: Literal["vllm", "sglang"] = "vllm"
    discover_pods: bool = True
    pod_discovery_config: PodDiscovery = PodDiscovery()
    max_lag: str = "1s"

    def ports(self) -> Ports | None:
        """Of every endpoint; None where they connect to a socket here."""
        pods = self.pod_discovery_config
        return Ports(pods.socket_port, pods.replay_socket_port) if self.discover_pods else None
