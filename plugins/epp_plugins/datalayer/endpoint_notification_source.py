"""endpoint-notification-source: tells plugins of endpoints that come and go."""

from __future__ import annotations

from epp.api import Plugin


class EndpointNotificationSource(Plugin):
    """Accepted so that configurations of the Go EPP load: here every plugin that wants to know of endpoints is told of them,
    listed as an extractor or not.
    """

    type = "endpoint-notification-source"
