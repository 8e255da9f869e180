"""prefill-header-handler: the older name of disagg-headers-handler. Deprecated."""

from __future__ import annotations

from epp_plugins.hooks.disagg_headers_handler import DisaggHeadersHandler


class PrefillHeaderHandler(DisaggHeadersHandler):
    """Deprecated: disagg-profile-handler sets these headers itself. Takes the parameters of disagg-headers-handler."""

    type = "prefill-header-handler"
