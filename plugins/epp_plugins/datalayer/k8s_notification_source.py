"""k8s-notification-source: tells plugins of Kubernetes objects of one kind."""

from __future__ import annotations

from epp.api import ConfigError, Handle, ObjectKind, ObjectSource


class K8sNotificationSource(ObjectSource):
    """Follows the objects of `group`, `version` and `kind` in the pool's namespace, and tells its extractors of each that
    comes, changes or goes. Extractors are plugins that are `ObjectListener`.

    Parameters as those of the Go EPP's. Without Kubernetes nobody is told of anything.
    """

    type = "k8s-notification-source"

    class Params(ObjectKind, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        for name in ("kind", "version"):
            if not getattr(params, name):
                raise ConfigError(f"{name}: is empty")

    def kind(self) -> ObjectKind:
        return ObjectKind(self.params.kind, self.params.version, self.params.group)
