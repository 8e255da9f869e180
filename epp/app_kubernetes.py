"""What the service does with Kubernetes: the connection, the source of endpoints, the gate of the metrics port."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from epp import version
from epp.api import ObjectKind, ObjectListener, ObjectSource
from epp.cli.options import RunOptions, Source
from epp.config import Pipeline
from epp.config.resolved import DataLayer
from epp.data.datastore import Datastore
from epp.discovery.kubernetes import credentials
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.discovery import KubernetesDiscovery, Wanted
from epp.discovery.kubernetes.reviews import Reviews
from epp.server.access import AccessGate


async def connect(options: RunOptions) -> Api:
    """Nothing is sent yet. Raises CredentialsError."""
    source = credentials.Source(options.kubeconfig, options.kube_context)
    return await Api.connect(source, user_agent=f"llm-epp/{version()}")


def make_discovery(
    api: Api,
    options: RunOptions,
    datastore: Datastore,
    *,
    synced: Callable[[bool], None],
    clock: Callable[[], float],
    rng: random.Random,
    pipeline: Pipeline,
) -> KubernetesDiscovery:
    """The pool that is named, or Pods by a selector. Objectives and rewrites from files take the place of the cluster's."""
    by_pool = options.source is Source.POOL
    wanted = Wanted(
        options.pool_namespace,
        pool_name=options.pool_name if by_pool else "",
        pool_group=options.pool_group,
        selector=options.endpoint_selector,
        target_ports=options.endpoint_target_ports,
        follow_objects=not options.objects_dir,
    )
    return KubernetesDiscovery(
        api, wanted, datastore, synced=synced, clock=clock, rng=rng, listeners=_listeners(pipeline)
    )


def _listeners(pipeline: Pipeline) -> dict[ObjectKind, list[ObjectListener]]:
    """Who is told of which kinds of objects (k8s-notification-source)."""
    layer: DataLayer = pipeline.settings["data_layer"]
    told: dict[ObjectKind, list[ObjectListener]] = {}
    for spec in layer.sources:
        source = pipeline.plugins[spec.source]
        extractors = [p for name in spec.extractors if isinstance(p := pipeline.plugins[name], ObjectListener)]
        if isinstance(source, ObjectSource) and extractors:
            told.setdefault(source.kind(), []).extend(extractors)
    return told


def is_guarded(options: RunOptions, *, static: bool, in_cluster: Callable[[], bool] | None = None) -> bool:
    """Whether the pages of the metrics port are for those only whom Kubernetes lets read them.

    As the flag says. Where it says nothing: wherever Kubernetes is used or this process runs in one of its Pods. On a laptop
    with `static` endpoints there is nobody to ask.
    """
    if options.metrics_endpoint_auth is not None:
        return options.metrics_endpoint_auth
    uses = not static and options.source in (Source.POOL, Source.SELECTOR)
    return uses or options.elects_leader or (in_cluster or runs_in_pod)()


def idle_flags(options: RunOptions, *, static: bool, connected: bool) -> list[str]:
    """Warnings of flags that say where endpoints come from, or how to ask Kubernetes, and that nothing here reads.

    `static`: endpoints come from file discovery. `connected`: something asks Kubernetes.
    """
    source = Source.UNSAID if static else options.source
    pool = source is Source.POOL or bool(options.objects_dir)
    namespace = pool or source is Source.SELECTOR or options.elects_leader
    counts = {
        "endpoint": (not static, "endpoints come from file discovery"),
        "endpoint-selector": (not static, "endpoints come from file discovery"),
        "kubeconfig": (connected, "nothing here asks Kubernetes"),
        "kube-context": (connected, "nothing here asks Kubernetes"),
        "pool-namespace": (namespace, "there is neither a pool, a selector, --objects nor a leader election here"),
        "pool-group": (pool, "there is neither a pool nor --objects here"),
    }
    return [
        f"--{flag}: no effect: {why}"
        for flag, (counted, why) in counts.items()
        if flag in options.given and not counted
    ]


def runs_in_pod() -> bool:
    """Whether this process is in a Pod that has a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (credentials.SERVICE_ACCOUNT_DIR / "token").is_file()


def make_gate(api: Api, clock: Callable[[], float]) -> AccessGate:
    """Asks the API server who may read the pages."""
    return AccessGate(Reviews(api), clock=clock)
