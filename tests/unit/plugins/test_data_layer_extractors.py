"""What extractors make of captured and of broken answers, and that they take it away again."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.api import MODELS, Endpoint, Extractor, ServedModel
from epp_plugins.datalayer.dcgm_extractor import DcgmExtractor
from epp_plugins.datalayer.models_data_extractor import ModelsDataExtractor
from epp_plugins.datalayer.multicluster_metrics_extractor import MulticlusterMetricsExtractor
from epp_plugins.datalayer.topology_extractor import TopologyExtractor
from epp_plugins.topology import Level, shared_level
from tests.support.plugins import make_plugin

DCGM = (Path(__file__).parents[2] / "fixtures" / "metrics" / "dcgm-exporter.prom").read_bytes()
GPU = "GPUUtilization/dcgm-extractor"
# As vLLM 0.32 answers, adapters included, but for the fields that nobody reads.
MODELS_PAGE = b"""{"object":"list","data":[
{"id":"small","object":"model","created":1795228037,"owned_by":"vllm","root":"/models/small","parent":null,"max_model_len":4096,
"permission":[{"id":"modelperm-1","object":"model_permission","is_blocking":false}]},
{"id":"lora-a","object":"model","created":1795228037,"owned_by":"vllm","root":"/lora-a","parent":"small","permission":[]}]}"""
AVERAGES = (
    b"# TYPE llm_d_epp_average_kv_cache_utilization gauge\n"
    b'llm_d_epp_average_kv_cache_utilization{name="pool"} 0.42\nllm_d_epp_average_queue_size{name="pool"} 3.5\n'
)
KV, QUEUE = "llm-d.ai/multicluster-kv-cache-utilization", "llm-d.ai/multicluster-queue-size"


def endpoint(name: str = "a", **labels: str) -> Endpoint:
    return Endpoint(name, "10.0.0.1", 8000, labels={key.replace("_", "/"): value for key, value in labels.items()})


def test_the_busiest_gpu_of_the_endpoints_pod_counts() -> None:
    extractor = make_plugin(DcgmExtractor)
    servers = [endpoint("server-a"), endpoint("server-b"), Endpoint("b-rank-1", "10.0.0.1", 8001, pod_name="server-b")]

    for server in servers:
        extractor.extract(server, DCGM)

    assert [server.attributes[GPU] for server in servers] == [0.87, 0.34, 0.34]


def test_gpus_without_a_pod_are_everybodys() -> None:
    alone = endpoint()

    make_plugin(DcgmExtractor).extract(alone, b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 50\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 60\n')

    assert alone.attributes[GPU] == 0.6


@pytest.mark.parametrize("percent", [b"-5", b"0"])
def test_a_gpu_is_at_least_idle(percent: bytes) -> None:
    alone = endpoint()

    make_plugin(DcgmExtractor).extract(alone, b"DCGM_FI_DEV_GPU_UTIL " + percent)

    assert alone.attributes[GPU] == 0


def test_served_models_and_the_bases_of_adapters_are_kept() -> None:
    server = endpoint()

    make_plugin(ModelsDataExtractor).extract(server, MODELS_PAGE)

    assert server.attributes[MODELS] == (ServedModel("small"), ServedModel("lora-a", "small"))


def test_averages_of_another_cluster_are_kept() -> None:
    cluster = endpoint()

    make_plugin(MulticlusterMetricsExtractor).extract(cluster, AVERAGES)

    assert (cluster.attributes[KV], cluster.attributes[QUEUE]) == (0.42, 3.5)


def test_an_average_that_is_no_longer_told_is_not_known() -> None:
    extractor, cluster = make_plugin(MulticlusterMetricsExtractor), endpoint()
    extractor.extract(cluster, AVERAGES)

    extractor.extract(cluster, AVERAGES.replace(b"0.42", b"NaN"))

    assert KV not in cluster.attributes
    assert cluster.attributes[QUEUE] == 3.5


@pytest.mark.parametrize(
    ("cls", "good", "bad"),
    [
        (DcgmExtractor, b"DCGM_FI_DEV_GPU_UTIL 5", b"DCGM_FI_DEV_GPU_UTIL five"),
        (DcgmExtractor, b"DCGM_FI_DEV_GPU_UTIL 5", b'DCGM_FI_DEV_GPU_UTIL{pod="another"} 5'),
        (DcgmExtractor, b"DCGM_FI_DEV_GPU_UTIL 5", b""),
        (ModelsDataExtractor, MODELS_PAGE, b'{"data": [{"id": 5}]}'),
        (ModelsDataExtractor, MODELS_PAGE, b'{"object": "error"}'),
        (ModelsDataExtractor, MODELS_PAGE, b"\xff not JSON"),
        (MulticlusterMetricsExtractor, AVERAGES, b"llm_d_epp_average_queue_size x"),
        (MulticlusterMetricsExtractor, AVERAGES, b""),
    ],
)
def test_what_cannot_be_used_is_said_and_what_is_old_is_taken_away(
    cls: type[Extractor], good: bytes, bad: bytes
) -> None:
    extractor, server = make_plugin(cls), endpoint()
    extractor.extract(server, good)
    assert server.attributes

    with pytest.raises(ValueError, match=r"."):
        extractor.extract(server, bad)
    extractor.forget(server)
    extractor.forget(server)

    assert server.attributes == {}


def test_topology_is_read_from_the_labels_that_are_configured() -> None:
    extractor = make_plugin(TopologyExtractor, hostname="my/node", rack="")
    one = endpoint("one", my_node="n1", **{"topology.kubernetes.io_zone": "z1"})
    other = endpoint("other", my_node="n1", **{"topology.kubernetes.io_zone": "z1"})
    third = endpoint("third", my_node="n2", **{"topology.kubernetes.io_zone": "z1"})
    assert shared_level(one, other) is Level.ZONE  # by the usual labels, which say nothing of my/node

    for server in (one, other, third):
        extractor.endpoint_added(server)

    assert shared_level(one, other) is Level.HOST
    assert shared_level(one, third) is Level.ZONE
    third.labels = {"my/node": "n1"}
    assert shared_level(one, third) is Level.HOST
    extractor.endpoint_removed(one)
    assert one.attributes == {}
