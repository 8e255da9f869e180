"""multicluster-session-affinity-filter: keep nothing but the cluster that a session is bound to."""

from __future__ import annotations

from epp_plugins.filters.session_affinity_filter import SessionAffinityFilter


class MulticlusterSessionAffinityFilter(SessionAffinityFilter):
    """The rule and the parameters of session-affinity-filter, where each endpoint is a whole cluster."""

    type = "multicluster-session-affinity-filter"
