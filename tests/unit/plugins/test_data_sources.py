"""What the data sources ask for, with and without parameters."""

from __future__ import annotations

import pytest

from epp.api import ConfigError, DataSource, Endpoint
from epp.data.metrics_source import MetricsSource
from epp_plugins.datalayer.dcgm_data_source import DcgmDataSource
from epp_plugins.datalayer.metrics_data_source import MetricsDataSource
from epp_plugins.datalayer.models_data_source import ModelsDataSource
from epp_plugins.datalayer.multicluster_metrics_data_source import MulticlusterMetricsDataSource
from tests.support.plugins import make_plugin


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (MetricsDataSource, ("http", "/metrics", 0, 0.0, True)),
        (ModelsDataSource, ("http", "/v1/models", 0, 10.0, True)),
        (DcgmDataSource, ("http", "/metrics", 9400, 1.0, True)),
        (MulticlusterMetricsDataSource, ("https", "/metrics", 0, 1.0, False)),
    ],
)
def test_defaults(cls: type[DataSource], expected: tuple[object, ...]) -> None:
    fetch = make_plugin(cls).fetch()

    assert (fetch.scheme, fetch.path, fetch.port, fetch.interval_s, fetch.insecure_skip_verify) == expected


def test_what_comes_from_another_cluster_is_bounded() -> None:
    assert make_plugin(MulticlusterMetricsDataSource).fetch().max_body_bytes == 8 * 1024 * 1024


def test_parameters_are_passed_on() -> None:
    fetch = make_plugin(
        DcgmDataSource, scheme="https", path="/gpu", port=1, interval="200ms", caCertPath="/ca", bearerTokenPath="/t"
    ).fetch()

    assert (fetch.scheme, fetch.path, fetch.port, fetch.interval_s) == ("https", "/gpu", 1, 0.2)
    assert (fetch.ca_cert_path, fetch.bearer_token_path) == ("/ca", "/t")


@pytest.mark.parametrize("cls", [MetricsDataSource, ModelsDataSource, DcgmDataSource, MulticlusterMetricsDataSource])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"path": "metrics"}, "path: "),
        ({"path": "/a b"}, "path: '/a b' cannot be the path of a request"),
        ({"clientKeyPath": "/k"}, "clientCertPath and clientKeyPath"),
        ({"interval": "fast"}, "interval: "),
        ({"interval": "0"}, "interval: must be more than 0"),
    ],
)
def test_wrong_parameters_are_refused(cls: type[DataSource], parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plugin(cls, **parameters)


@pytest.mark.parametrize(("node", "expected"), [("192.168.0.7", "192.168.0.7"), ("", "10.0.0.1")])
def test_an_exporter_that_runs_once_a_node_is_asked_at_the_nodes_address(node: str, expected: str) -> None:
    fetch = make_plugin(DcgmDataSource, useNodeAddress=True).fetch()
    source = MetricsSource(port=fetch.port, use_node_address=fetch.use_node_address)

    assert source.address(Endpoint("a", "10.0.0.1", 8000, node_address=node)) == (expected, 9400)
