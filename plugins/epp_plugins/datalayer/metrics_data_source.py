"""metrics-data-source: how the metrics pages of the model servers are fetched."""

from __future__ import annotations

from epp_plugins.datalayer.fetching import HttpDataSource, HttpParams


class MetricsDataSource(HttpDataSource):
    """Gets the page of every endpoint. `path` /metrics means where the endpoint's engine has its page.

    `bearerTokenPath` is a file with a token to send along, which is read again when it changes; the other parameters are
    those of the Go EPP's metrics-data-source.
    """

    type = "metrics-data-source"
    Params = HttpParams
