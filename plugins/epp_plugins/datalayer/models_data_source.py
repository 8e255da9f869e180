"""models-data-source: how the lists of models that the servers serve are fetched."""

from __future__ import annotations

from epp_plugins.datalayer.fetching import HttpDataSource, HttpParams


class ModelsDataSource(HttpDataSource):
    """Gets `/v1/models` of every endpoint. Parameters as those of metrics-data-source, like the Go EPP's models-data-source.

    Without an `interval` it is every 10 seconds: models come and go by hand, and the Go EPP's 50 ms load the servers.
    """

    type = "models-data-source"

    class Params(HttpParams, frozen=True, forbid_unknown_fields=True, rename="camel"):
        path: str = "/v1/models"
        interval: str = "10s"
