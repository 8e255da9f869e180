"""What the service does with Kubernetes: the connection, and the source of endpoints that its options ask for."""

from __future__ import annotations

import random
from collections.abc import Callable

from epp import version
from epp.cli.options import RunOptions, Source
from epp.data.datastore import Datastore
from epp.discovery.kubernetes import credentials
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.discovery import KubernetesDiscovery, Wanted


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
    return KubernetesDiscovery(api, wanted, datastore, synced=synced, clock=clock, rng=rng)
