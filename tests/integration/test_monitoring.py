"""Alerts, dashboard and the metrics page, as Prometheus and its promtool see them."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from epp.demo.processes import Children, wait_for_http, wait_until
from epp.sim import SimConfig, SimServer, StepCost
from tests.support import tools
from tests.support.processes import open_files
from tests.support.stack import Stack, start_stack

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "manifests" / "overlays" / "monitoring"
PREDICTING = ROOT / "config" / "latency-slo.yaml"
ALERTS = ROOT / "tests" / "fixtures" / "alerts.yaml"
COMPLETION = {"model": "sim-model", "prompt": "once upon a time " * 40, "max_tokens": 8}
STREAM = COMPLETION | {"stream": True, "stream_options": {"include_usage": True}}
# promtool takes the d of llm_d for days. The names are llm-d's.
_ABOUT_LLM_D = re.compile(r"llm_d_epp_\w+ metric names should not contain abbreviated units")
# Prometheus' own words in queries, which look like metrics.
_METRIC = re.compile(r"\b(?:llm_d_epp|llm_epp|inference|process|leader_election)_\w+")


def rule_groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"]
    return groups


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return loaded


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def documented() -> set[str]:
    """Names in the table of metrics of docs/observing.md, which is made from the code."""
    text = (ROOT / "docs" / "observing.md").read_text()
    table = text[text.index("<!-- table: metrics -->") : text.index("<!-- end of table -->")]
    return set(re.findall(r"`(\w+)(?:\{[^`]*\})?`", table))


# --- what can be said without Prometheus -----------------------------------------------------------------------------------


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    asked = {name for rule in rules() for name in _METRIC.findall(rule["expr"])}
    asked |= {name for query in queries() for name in _METRIC.findall(query)}
    known = documented() | {"process_cpu_seconds_total", "process_resident_memory_bytes"}

    assert len(asked) > 20
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} - known == set()


def test_every_alert_is_played_to_with_and_without_its_cause() -> None:
    played = [test for case in yaml.safe_load(ALERTS.read_text())["tests"] for test in case["alert_rule_test"]]

    for rule in rules():
        outcomes = {bool(test["exp_alerts"]) for test in played if test["alertname"] == rule["alert"]}
        assert outcomes == {True, False}, rule["alert"]


def test_panels_have_a_unit_a_description_and_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    taken: set[tuple[int, int]] = set()

    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"]]


# --- promtool --------------------------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": rule_groups()}))

    done = subprocess.run(
        [tools.find_or_skip(tools.PROMTOOL), "check", "rules", str(path)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_each_alert_fires_for_its_cause_and_not_otherwise(tmp_path: Path) -> None:
    # promtool compares texts, too, and they are templates: the rules are played without them.
    bare = [{**group, "rules": [{**rule, "annotations": {}} for rule in group["rules"]]} for group in rule_groups()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": bare}))
    played = yaml.safe_load(ALERTS.read_text()) | {"rule_files": ["rules.yaml"]}
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(played))

    done = subprocess.run(
        [tools.find_or_skip(tools.PROMTOOL), "test", "rules", "alerts.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


# --- a picker under load, and a Prometheus that reads it -------------------------------------------------------------------


@asynccontextmanager
async def picker_under_load(folder: Path) -> AsyncIterator[Stack]:
    """Requests of several kinds, again and again, until the block is left."""
    async with AsyncExitStack() as running:
        servers = [SimServer(SimConfig(name=f"sim-{i}", cost=StepCost(speed=20))) for i in range(2)]
        endpoints = [(await running.enter_async_context(server)).address for server in servers]
        stack = await running.enter_async_context(
            start_stack(folder, f"--config-file={PREDICTING}", endpoints=endpoints)
        )
        await ask(stack)
        load = asyncio.create_task(_keep_asking(stack))
        try:
            yield stack
        finally:
            was_asking = load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        assert was_asking, load.exception()


async def _keep_asking(stack: Stack) -> None:
    while True:
        await ask(stack)


async def ask(stack: Stack) -> None:
    """A completion, a stream, and a request that cannot be understood."""
    for body, expected in ((COMPLETION, 200), (STREAM, 200), ({"model": "sim-model"}, 400)):
        status, _, text = await stack.post("/v1/completions", body)
        assert status == expected, text


async def test_promtool_finds_nothing_wrong_with_the_metrics_page(tmp_path: Path) -> None:
    promtool = tools.find_or_skip(tools.PROMTOOL)
    async with picker_under_load(tmp_path) as stack:
        _, page = await stack.epp.page("/metrics")

    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=page, capture_output=True, text=True
    )

    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if not _ABOUT_LLM_D.fullmatch(line)] == []
    assert "llm_d_epp_request_total" in page


@pytest.mark.timeout(400)
async def test_prometheus_answers_every_query_of_the_dashboard(tmp_path: Path) -> None:
    prometheus = str(tools.find_or_skip(tools.PROMETHEUS))
    unanswered = {query: _without_variables(query) for query in queries()}
    answers = list[str]()
    async with (
        picker_under_load(tmp_path) as stack,
        Children(tmp_path / "prometheus") as children,
        aiohttp.ClientSession() as session,
    ):
        url = await start_prometheus(children, prometheus, tmp_path, stack.epp.metrics)
        deadline = asyncio.get_running_loop().time() + 200
        while unanswered and asyncio.get_running_loop().time() < deadline:
            for query, concrete in list(unanswered.items()):
                if await has_data(session, url, concrete):
                    answers.append(unanswered.pop(query))
            await asyncio.sleep(0.2)
        alerts = await rules_in_error(session, url)

    assert list(unanswered) == []
    assert len(answers) == len(queries())
    assert alerts == []


def _without_variables(query: str) -> str:
    concrete = query.replace("$__rate_interval", "30s").replace("$namespace", ".*").replace("$job", ".*")
    assert "$" not in concrete
    return concrete


async def start_prometheus(children: Children, program: str, folder: Path, target: str) -> str:
    """Its URL, once it is ready. It reads `target` and works out the alerts every second, which a page may take as well."""
    (folder / "alerts.yaml").write_text(yaml.safe_dump({"groups": rule_groups()}))
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": ["alerts.yaml"],
                "scrape_configs": [{"job_name": "epp", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    child = await children.start(
        [
            program,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ],
        name="prometheus",
    )

    async def listening() -> int | None:
        return next(listening_ports(child.pid), None)

    port = await wait_until(child, listening, what="listened", deadline_s=60)
    await wait_for_http(child, f"http://127.0.0.1:{port}/-/ready", deadline_s=60)
    return f"http://127.0.0.1:{port}"


def listening_ports(pid: int) -> Iterator[int]:
    """TCP ports that a process listens on: Prometheus does not say which one it got (proc(5))."""
    sockets = set(open_files(pid))
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == "0A" and f"socket:[{rest[5]}]" in sockets:
            yield int(local.partition(":")[2], 16)


async def has_data(session: aiohttp.ClientSession, url: str, query: str) -> bool:
    """True when every value that the query gives is a number, and there is one."""
    async with session.get(f"{url}/api/v1/query", params={"query": query}) as response:
        answer = await response.json()
    assert answer["status"] == "success", (query, answer)
    values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
    return bool(values) and all(map(math.isfinite, values))


async def rules_in_error(session: aiohttp.ClientSession, url: str) -> list[str]:
    async with session.get(f"{url}/api/v1/rules") as response:
        groups = (await response.json())["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {rule["alert"] for rule in rules()}
    return [f"{rule['name']}: {rule['lastError']}" for rule in loaded if rule.get("lastError")]
