"""by-label-selector: the deprecated name of label-selector-filter."""

from __future__ import annotations

from epp.api import Handle
from epp_plugins.filters.label_selector_filter import LabelSelectorFilter


class ByLabelSelector(LabelSelectorFilter):
    """Deprecated: use label-selector-filter, which takes the same parameters."""

    type = "by-label-selector"

    def __init__(self, params: LabelSelectorFilter.Params, handle: Handle) -> None:
        super().__init__(params, handle)
        handle.log.warning("plugin %s: type by-label-selector is deprecated; use label-selector-filter", handle.name)
