"""The table of the data layer's plugins: what is fetched from endpoints, who reads it, where endpoints come from."""

from __future__ import annotations

from typing import Final

from epp.api import Plugin
from epp_plugins.datalayer.core_metrics_extractor import CoreMetricsExtractor
from epp_plugins.datalayer.dcgm_data_source import DcgmDataSource
from epp_plugins.datalayer.dcgm_extractor import DcgmExtractor
from epp_plugins.datalayer.endpoint_notification_source import EndpointNotificationSource
from epp_plugins.datalayer.file_discovery import FileDiscovery
from epp_plugins.datalayer.k8s_notification_source import K8sNotificationSource
from epp_plugins.datalayer.metrics_data_source import MetricsDataSource
from epp_plugins.datalayer.models_data_extractor import ModelsDataExtractor
from epp_plugins.datalayer.models_data_source import ModelsDataSource
from epp_plugins.datalayer.multicluster_metrics_data_source import MulticlusterMetricsDataSource
from epp_plugins.datalayer.multicluster_metrics_extractor import MulticlusterMetricsExtractor
from epp_plugins.datalayer.topology_extractor import TopologyExtractor

DATA_LAYER: Final[tuple[type[Plugin], ...]] = (
    MetricsDataSource,
    CoreMetricsExtractor,
    ModelsDataSource,
    ModelsDataExtractor,
    DcgmDataSource,
    DcgmExtractor,
    MulticlusterMetricsDataSource,
    MulticlusterMetricsExtractor,
    EndpointNotificationSource,
    K8sNotificationSource,
    TopologyExtractor,
    FileDiscovery,
)
