"""Which flags are reported as doing nothing, by where endpoints come from and whether anything asks Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from epp.app import Service, load_config
from epp.app_kubernetes import idle_flags
from epp.cli.options import parse

EVERY: Final = "--kubeconfig=k --kube-context=c --pool-namespace=n --pool-group=g"
NAMES: Final = ["kubeconfig", "kube-context", "pool-namespace", "pool-group"]


def idle(line: str, *, static: bool = False, connected: bool = False) -> list[str]:
    """Names of the flags that are warned of."""
    warnings = idle_flags(parse(f"{line} {EVERY}".split()), static=static, connected=connected)
    return [warning.removeprefix("--").partition(":")[0] for warning in warnings]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--endpoint=a:1", NAMES),
        ("--endpoint=a:1 --pool-name=p", NAMES),  # the name is but a label there
        ("--endpoint=a:1 --objects=d", ["kubeconfig", "kube-context"]),
    ],
)
def test_flags_for_kubernetes_are_warned_of_where_nothing_asks_it(line: str, expected: list[str]) -> None:
    assert idle(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--pool-name=p", []),
        ("--endpoint-selector=a=b --endpoint-target-ports=1", ["pool-group"]),
        ("--endpoint=a:1 --ha-enable-leader-election", ["pool-group"]),
        ("--endpoint=a:1 --metrics-endpoint-auth", ["pool-namespace", "pool-group"]),
    ],
)
def test_flags_that_are_read_are_not_warned_of(line: str, expected: list[str]) -> None:
    assert idle(line, connected=True) == expected


@pytest.mark.parametrize(
    ("line", "flag"),
    [("--endpoint=a:1", "endpoint"), ("--endpoint-selector=a=b --endpoint-target-ports=1", "endpoint-selector")],
)
def test_beside_file_discovery_other_endpoints_are_warned_of(line: str, flag: str) -> None:
    assert idle(line, static=True) == [flag, *NAMES]


def test_what_was_not_given_is_not_warned_of() -> None:
    assert idle_flags(parse(["--endpoint=a:1"], {"NAMESPACE": "n"}), static=False, connected=False) == []


async def test_the_start_tells_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ports = [f"--{name}=0" for name in ("grpc-port", "grpc-health-port", "metrics-port")]
    options = parse(["--endpoint=127.0.0.1:1", f"--kubeconfig={tmp_path}/none", "--drain-timeout=0s", *ports])
    service = Service(options, load_config(options))

    await service.start()
    await service.stop()

    assert "--kubeconfig: no effect: nothing here asks Kubernetes" in caplog.messages
