"""Pods that are replaced one by one under load leave nothing behind in the EPP."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.churn import AT_A_TIME, churn
from tests.support.control_plane import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.kube]


@pytest.mark.skipif(sys.platform != "linux", reason="addresses of the whole loopback network, and /proc, are Linux's")
async def test_a_hundred_pods_replaced_under_load_leave_nothing_behind(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    report = await churn(control_plane, namespace, tmp_path, count=100, rate=20)

    assert report.failures == []
    assert report.endpoints == report.wanted
    assert report.in_flight == 0
    assert report.late.threads <= report.early.threads + AT_A_TIME  # a pool of threads may still grow
    # Kept connections to the Pods that are there: one for metrics each, two while it is exchanged.
    assert report.late.sockets <= report.early.sockets + AT_A_TIME
    assert report.late.series <= report.early.series + 4 * AT_A_TIME
    # One Pod's columns, prefixes and metrics take some hundred KiB; 83 that stayed would be more than this.
    assert report.late.memory_mib <= report.early.memory_mib + 24
