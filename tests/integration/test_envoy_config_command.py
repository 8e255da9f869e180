"""`epp envoy-config`: what it writes, that a real Envoy accepts every variant, and that it serves with one."""

from __future__ import annotations

import asyncio
import itertools
import json
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from epp.cli.envoy_config import GROUPS
from epp.cli.main import main
from epp.demo.envoy import EnvoyMissingError, find_envoy, start_envoy
from epp.demo.processes import Children
from epp.server.tls import self_signed
from epp.sim import SimConfig, SimServer
from tests.support.stack import start_epp

try:
    find_envoy()
    NO_ENVOY = ""
except EnvoyMissingError as missing:
    NO_ENVOY = str(missing)
needs_envoy = pytest.mark.skipif(bool(NO_ENVOY), reason=NO_ENVOY)

ROOT = Path(__file__).parents[2]
_COMMAND = "epp envoy-config "
DOCUMENTED = [
    line.removeprefix(_COMMAND)
    for line in (ROOT / "docs" / "envoy.md").read_text().splitlines()
    if line.startswith(_COMMAND)
]
BLIND = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: passthrough-parser}, {type: active-request-scorer}]
requestHandler: {parsers: [{pluginRef: passthrough-parser}]}
"""
OVERRIDE = "--upstream override_host --endpoint a=127.0.0.1:8001,b=[::1]:8002"
BODIES = [
    f"--request-bodies {request} --response-bodies {response}"
    for request, response in itertools.product(
        ("auto", "all", "buffered", "none"), ("auto", "all", "none", "sampled=0.1")
    )
]
VARIANTS = [
    *BODIES,
    *(f"{OVERRIDE} --response-bodies {response}" for response in ("all", "none", "sampled=0.005")),
    "--response-bodies sampled=0",
    "--response-bodies sampled=1",
    "--response-bodies sampled=0.000001",
    "--epp-tls=false",
    "--epp-ca {ca}",
    "--epp localhost:9002 --epp-ca {ca}",
    "--epp [::1]:9002 --epp-ca {ca} --epp-server-name epp.example",
    "--epp epp.example:9002",
    f"{OVERRIDE} --failure-mode open",
    f"{OVERRIDE} --failure-mode open --request-bodies all --retries 2",
    "--message-timeout 250ms --connect-timeout 1s --request-timeout 0s",
    "--message-timeout 1h --request-timeout 1h30m",
    "--max-connections 1 --max-requests 4294967295 --retries 1",
    "--upstream-http2 --fresh-upstream-connections --buffer-limit 32Ki",
    "--listen [::]:0 --admin [::1]:0",
    "--output json --response-bodies sampled=0.1",
    "--probes [::]:19001",
    "--upstream override_host --endpoint-dns vllm.inference.svc:8000 --failure-mode open",
]
FILTERS = ["", "--response-bodies sampled=0.1", "--failure-mode open", "--request-bodies none --response-bodies none"]


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error of `epp envoy-config`."""
    status = main(["envoy-config", *shlex.split(line)])
    said = capsys.readouterr()
    return status, said.out, said.err


def written(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    status, out, errors = run(line, capsys)
    assert status == 0, errors
    document: dict[str, Any] = yaml.safe_load(out)
    return document


def manager(document: dict[str, Any]) -> dict[str, Any]:
    (listener,) = document["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def body_modes(document: dict[str, Any]) -> tuple[str, str]:
    filters = document.get("http_filters") or manager(document)["http_filters"]
    mode = filters[0]["typed_config"]["processing_mode"]
    return mode["request_body_mode"], mode["response_body_mode"]


def comments(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def refusal(path: Path) -> str:
    """What Envoy says against a configuration file; empty when it accepts it."""
    check = [str(find_envoy()), "--mode", "validate", "-c", str(path), "-l", "error", "--disable-hot-restart"]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def blind(tmp_path: Path) -> Path:
    path = tmp_path / "blind.yaml"
    path.write_text(BLIND)
    return path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tls.crt, for localhost and signed by itself, and tls.key."""
    folder = tmp_path_factory.mktemp("certificate")
    pair = self_signed()
    (folder / "tls.crt").write_bytes(pair.chain)
    (folder / "tls.key").write_bytes(pair.key)
    return folder


# --- what Envoy says -----------------------------------------------------------------------------------------------------


@needs_envoy
@pytest.mark.parametrize("line", VARIANTS)
def test_envoy_accepts_what_is_written(line: str, tmp_path: Path, certificate: Path) -> None:
    # Envoy goes by the name of a file.
    out = tmp_path / ("envoy.json" if "json" in line else "envoy.yaml")
    flags = shlex.split(line.replace("{ca}", str(certificate / "tls.crt")))

    status = main(["envoy-config", *flags, "--out", str(out)])

    assert status == 0
    assert refusal(out) == ""


@needs_envoy
@pytest.mark.parametrize("line", FILTERS)
def test_envoy_accepts_the_filter_and_the_routes_in_a_configuration_of_its_own(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = written("", capsys)
    part = written(f"{line} --filter-only", capsys)
    host = manager(whole)["route_config"]["virtual_hosts"][0]
    router = manager(whole)["http_filters"][-1]
    host["routes"] = part["routes"]
    manager(whole)["http_filters"] = [*part["http_filters"], router]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(whole))

    assert list(part) == ["http_filters", "routes"]
    assert refusal(path) == ""


@needs_envoy
@pytest.mark.parametrize("line", DOCUMENTED)
def test_the_commands_of_the_documentation_work(line: str, tmp_path: Path, certificate: Path) -> None:
    out = tmp_path / "envoy.yaml"
    flags = shlex.split(
        line.replace("/etc/envoy/ca.crt", str(certificate / "tls.crt")).replace("config/", f"{ROOT}/config/")
    )

    status = main(["envoy-config", *flags, "--out", str(out)])

    assert status == 0
    assert "--filter-only" in flags or refusal(out) == ""


@needs_envoy
async def test_an_envoy_that_verifies_the_epp_serves(tmp_path: Path, certificate: Path) -> None:
    ca = certificate / "tls.crt"
    async with Children(tmp_path / "logs") as children, SimServer(SimConfig(name="sim")) as sim:
        epp = await start_epp(children, f"--cert-path={certificate}", endpoints=[sim.address], tls=True)
        port = epp.grpc.rpartition(":")[2]
        right = await _start(children, tmp_path, "right", f"--epp localhost:{port} --epp-ca {ca}")
        wrong = await _start(children, tmp_path, "wrong", f"--epp {epp.grpc} --epp-ca {ca} --epp-server-name other")

        assert await _complete(right) == 200
        assert await _complete(wrong) == 500


@needs_envoy
async def test_a_gateway_that_fails_open_serves_without_an_epp(tmp_path: Path) -> None:
    async with Children(tmp_path / "logs") as children, SimServer(SimConfig(name="sim")) as sim:
        epp = await start_epp(children, endpoints=[sim.address], tls=True)
        common = f"--epp {epp.grpc} --upstream override_host --endpoint {sim.address}"
        opened = await _start(children, tmp_path, "open", f"{common} --failure-mode open")
        closed = await _start(children, tmp_path, "close", f"{common} --failure-mode close")
        with_epp = [await _complete(opened), await _complete(closed)]
        epp.child.process.send_signal(signal.SIGKILL)
        await epp.child.process.wait()

        assert with_epp == [200, 200]
        assert await _complete(opened) == 200
        assert await _complete(closed) == 500


async def _start(children: Children, folder: Path, name: str, line: str) -> str:
    """The URL of an Envoy with the configuration that `epp envoy-config` writes for these flags."""
    out = folder / f"{name}.written.yaml"
    flags = f"{line} --listen 127.0.0.1:0 --admin 127.0.0.1:0"
    assert await asyncio.to_thread(main, ["envoy-config", *shlex.split(flags), "--out", str(out)]) == 0
    envoy = await start_envoy(children, yaml.safe_load(out.read_text()), folder, name=name)
    return envoy.url


async def _complete(url: str) -> int:
    body = {"model": "sim-model", "prompt": "hello", "max_tokens": 2}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as response:
        await response.read()
        return response.status


# --- what is written -----------------------------------------------------------------------------------------------------


def test_the_built_in_default_needs_all_bodies(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run("", capsys)

    assert body_modes(yaml.safe_load(out)) == ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
    assert "response bodies: FULL_DUPLEX_STREAMED: read by openai-parser" in comments(out)


def test_a_configuration_that_reads_nothing_gets_nothing(blind: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, errors = run(str(blind), capsys)

    assert body_modes(yaml.safe_load(out)) == ("NONE", "NONE")
    assert "response bodies: NONE: nothing in the configuration reads them" in comments(out)
    assert errors == ""


@pytest.mark.parametrize("line", ["{file}", "--config-file {file}", "--config-file={file}"])
def test_the_comments_say_what_it_was_made_of(line: str, blind: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = line.format(file=blind)

    _, out, _ = run(f"{command} --retries 1", capsys)

    assert f"epp envoy-config {command} --retries 1" in comments(out)
    assert f"configuration {blind}, hash " in comments(out)


def test_a_newline_in_an_argument_does_not_leave_the_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a\nstatic_resources: {}\n.yaml"
    path.write_text(BLIND)

    assert list(written(shlex.quote(str(path)), capsys)) == ["admin", "layered_runtime", "static_resources"]


def test_json_is_the_same_document(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--response-bodies sampled=0.1 --endpoint 127.0.0.1:8001 --upstream override_host"

    _, out, _ = run(f"{line} --output json", capsys)

    assert json.loads(out) == written(line, capsys)


def test_a_file_is_written_instead_of_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(f"--out {tmp_path}/envoy.yaml", capsys)

    assert (status, out) == (0, "")
    assert body_modes(yaml.safe_load((tmp_path / "envoy.yaml").read_text()))[0] == "FULL_DUPLEX_STREAMED"


def test_a_file_that_cannot_be_written_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run(f"--out {tmp_path}/no/such/envoy.yaml", capsys)

    assert status == 1
    assert f"cannot write {tmp_path}/no/such/envoy.yaml: No such file or directory" in errors


def test_flags_about_what_is_not_written_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run("--filter-only --listen 127.0.0.1:1 --max-requests 5", capsys)

    assert status == 0
    assert "warning: --listen, --max-requests: no effect with --filter-only" in errors


def test_a_doubtful_choice_is_warned_of_and_made(blind: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, errors = run(f"{blind} --response-bodies all", capsys)

    assert status == 0
    assert body_modes(yaml.safe_load(out))[1] == "FULL_DUPLEX_STREAMED"
    assert "warning: --response-bodies all: nothing in the configuration reads them" in errors
    assert "nothing in the configuration reads them; none is cheaper" in comments(out)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--response-bodies some", "--response-bodies: 'some' is not one of auto, all, none, sampled=FRACTION"),
        ("--response-bodies sampled=2", "--response-bodies: 2 is not in 0..1"),
        ("--response-bodies sampled=nan", "--response-bodies: nan is not in 0..1"),
        ("--response-bodies sampled=ten", "--response-bodies: 'ten' is not a number"),
        ("--response-bodies sampled=1e-9", "--response-bodies: 1e-9 is too small"),
        ("--request-bodies sampled=0.1", "--request-bodies: 'sampled=0.1' is not one of"),
        ("--epp localhost", "--epp: 'localhost' is not an address"),
        ("--epp localhost:99999", "port 99999 is not in 0..65535"),
        ("--listen example.org:80", "--listen: 'example.org' is not an IP address"),
        ("--upstream override_host", "name them, --endpoint"),
        ("--endpoint 10.0.0.1:80 --endpoint-dns vllm:80", "--endpoint-dns: the model servers are those of --endpoint"),
        ("--endpoint-dns vllm", "--endpoint-dns: 'vllm' is not an address"),
        ("--probes 0.0.0.0:19001 --admin 127.0.0.1:0", "--probes: its pages are read from the admin port"),
        ("--endpoint nowhere:80", "'nowhere' is neither an IP address nor localhost"),
        ("--failure-mode open", "use override_host"),
        ("--epp-tls=false --epp-ca ca.pem", "--epp-ca: there is no certificate with --epp-tls=false"),
        ("--message-timeout 2h", "--message-timeout: 7200s is not above 0 and at most 1h"),
        ("--connect-timeout 0s", "--connect-timeout: 0s is not above 0"),
        ("--max-requests 0", "--max-requests: 0 is not in 1.."),
        ("--retries -1", "--retries: -1 is not in 0.."),
        ("--filter-onyl", "did you mean --filter-only?"),
        ("a.yaml b.yaml", "unexpected argument: b.yaml"),
        ("--config-file a.yaml b.yaml", "unexpected argument: b.yaml"),
        ("no-such-file.yaml", "cannot read the file: No such file or directory"),
    ],
)
def test_a_mistake_is_named_with_status_2(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, errors = run(line, capsys)

    assert (status, out) == (2, "")
    assert said in errors


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("--help", capsys)

    assert status == 0
    assert [flag.name for group in GROUPS for flag in group.flags if f"--{flag.name}" not in out] == []
