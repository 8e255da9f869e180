"""The standalone servers: every route, field and promise of llm-d's latency predictor, and what they do with nonsense."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import random
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp_predictor.codec import decode
from epp_predictor.servers.files import write_model
from epp_predictor.servers.serving import bootstrap
from tests.support.predictor_servers import FEWEST_NEW, ROW, Client, entries, prediction_app, serving, training_app

# Another process imports XGBoost, which takes a second, or twenty on a busy machine.
pytestmark = pytest.mark.timeout(400)

PREDICTION_FIELDS = [
    "ttft_ms",
    "tpot_ms",
    "predicted_at",
    "model_type",
    "objective_type",
    "quantile",
    "last_model_load",
]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
async def trainer(session: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(training_app(tmp_path)) as url:
        yield Client(session, url)


@pytest.fixture
async def predictor(session: aiohttp.ClientSession, trainer: Client, tmp_path: Path) -> AsyncIterator[Client]:
    """Follows `trainer`, which has not learnt anything."""
    async with serving(prediction_app(tmp_path, trainer.url)) as url:
        client = Client(session, url)
        await until(lambda: is_ready(client))
        yield client


async def until(condition: Callable[[], Awaitable[Any]], limit_s: float = 200) -> Any:
    """What the condition says when it is first true."""
    async with asyncio.timeout(limit_s):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.02)


async def is_ready(client: Client) -> bool:
    return bool((await client.get("/status"))["is_ready"])


async def has_learnt(trainer: Client) -> bool:
    """Both models, and from all samples but a rest that is too small for another fit: they stay what they are."""
    status = await trainer.get("/data/status")
    fitted = status["training"]  # of trees: ridge regression takes all there are
    rest = fitted.get("sent", 0) - fitted.get("samples", 0)
    return status["bootstrap"] == {"ttft": False, "tpot": False} and rest < 2 * FEWEST_NEW - 1


async def versions_of(trainer: Client) -> dict[str, int]:
    return {target: (await trainer.get(f"/model/{target}/info"))["version"] for target in ("ttft", "tpot")}


async def has_versions(predictor: Client) -> bool:
    versions = (await predictor.get("/status"))["model_versions"]
    return all(versions.get(target, 0) > 0 for target in ("ttft", "tpot"))


async def are_in_files(trainer: Client, folder: Path) -> bool:
    """Its models, as they are now."""
    for target in ("ttft", "tpot"):
        path, etag = folder / f"{target}.eppm", (await trainer.get(f"/model/{target}/info"))["etag"]
        if not path.exists() or f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"' != etag:
            return False
    return True


# --- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["xgboost", "bayesian_ridge"])
async def test_samples_that_are_posted_move_predictions(
    session: aiohttp.ClientSession, tmp_path: Path, kind: str
) -> None:
    short, long = {**ROW, "input_token_length": 50}, {**ROW, "input_token_length": 8000}
    async with serving(training_app(tmp_path, LATENCY_MODEL_TYPE=kind)) as trainer_url:
        trainer = Client(session, trainer_url)
        async with serving(prediction_app(tmp_path, trainer_url, LATENCY_MODEL_TYPE=kind)) as url:
            predictor = Client(session, url)
            await until(lambda: is_ready(predictor))
            before = await predictor.post("/predict/bulk/strict", {"requests": [short, long]})

            await trainer.send(1200)
            await until(lambda: has_learnt(trainer))
            await until(lambda: has_versions(predictor))
            after = await predictor.post("/predict/bulk/strict", {"requests": [short, long]})

    assert [p["ttft_ms"] for p in before["predictions"]] == [10.0, 10.0]
    ttft = [p["ttft_ms"] for p in after["predictions"]]
    assert ttft[1] > 2 * ttft[0] > 20
    assert all(p["tpot_ms"] != 10 for p in after["predictions"])
    assert {p["model_type"] for p in after["predictions"]} == {kind}


async def test_quantile_and_mean_differ_and_higher_quantiles_are_higher(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    said = {}
    async with serving(training_app(tmp_path)) as trainer_url:
        trainer = Client(session, trainer_url)
        await trainer.send(1200)
        await until(lambda: has_learnt(trainer))
        await trainer.post("/flush")  # so that all of them load the same model
        for number, variables in enumerate(
            (
                {"LATENCY_QUANTILE_ALPHA": "0.5"},
                {"LATENCY_QUANTILE_ALPHA": "0.99"},
                {"LATENCY_OBJECTIVE_TYPE": "mean"},
            )
        ):
            async with serving(prediction_app(tmp_path / str(number), trainer_url, **variables)) as url:
                client = Client(session, url)
                await until(lambda client=client: has_versions(client))  # type: ignore[misc]
                said[number] = await client.post("/predict", ROW)

    assert said[0]["ttft_ms"] < said[2]["ttft_ms"] < said[1]["ttft_ms"]
    assert said[2]["objective_type"] == "mean"


async def test_several_prediction_servers_follow_one_training_server(
    session: aiohttp.ClientSession, trainer: Client, tmp_path: Path
) -> None:
    apps = [prediction_app(tmp_path / str(number), trainer.url) for number in range(3)]
    async with serving(apps[0]) as a, serving(apps[1]) as b, serving(apps[2]) as c:
        clients = [Client(session, url) for url in (a, b, c)]
        await trainer.send(1000)
        await until(lambda: has_learnt(trainer))
        await trainer.post("/flush")
        versions = await versions_of(trainer)

        async def all_have_them() -> bool:
            return all([(await client.get("/status"))["model_versions"] == versions for client in clients])

        await until(all_have_them)

        said = [(await client.post("/predict", ROW))["ttft_ms"] for client in clients]
    assert said[0] == said[1] == said[2] != 10


async def test_a_prediction_server_outlives_its_training_server_and_its_own_restart(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with serving(training_app(tmp_path)) as trainer_url:
        trainer = Client(session, trainer_url)
        await trainer.send(1000)
        async with serving(prediction_app(tmp_path, trainer_url)) as url:
            first = Client(session, url)
            await until(lambda: has_versions(first))
            await until(lambda: has_learnt(trainer))
            await until(lambda: are_in_files(trainer, tmp_path / "local"))
    async with serving(prediction_app(tmp_path, trainer_url)) as url:
        again = Client(session, url)

        said = await again.post("/predict", ROW)

        await again.get("/readyz")
        assert said["ttft_ms"] != 10
        status = await until(lambda: problem_of(again))
        assert "ttft" in status or "tpot" in status


async def problem_of(client: Client) -> str:
    return str((await client.get("/status"))["problem"])


async def test_a_restarted_training_server_goes_on_with_its_model(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with serving(training_app(tmp_path)) as url:
        trainer = Client(session, url)
        await trainer.send(1000)
        await until(lambda: has_learnt(trainer))
        await trainer.post("/flush")
        before = await trainer.post("/predict", ROW)
        await until(lambda: are_in_files(trainer, tmp_path))
    async with serving(training_app(tmp_path)) as url:
        after = await Client(session, url).post("/predict", ROW)

    assert after["ttft_ms"] == pytest.approx(before["ttft_ms"])


async def test_the_file_is_that_of_the_newest_model_however_long_each_takes_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = training_app(tmp_path, LATENCY_MODEL_TYPE="bayesian_ridge").state.service
    pauses_s = [0.1, 0.0]

    def write(data: bytes, path: Path) -> None:
        time.sleep(pauses_s.pop(0))
        write_model(data, path)

    monkeypatch.setattr("epp_predictor.servers.training.write_model", write)
    for fitted_at_s in (1.0, 2.0):
        service.publish("ttft", bootstrap("ttft", fitted_at_s))
    await service.written()

    assert pauses_s == []
    assert (tmp_path / "ttft.eppm").read_bytes() == bootstrap("ttft", 2.0).encode()


async def test_a_damaged_model_file_is_left_out(
    session: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ttft.eppm").write_bytes(b"\x80\x04 a pickle, say")

    async with serving(training_app(tmp_path)) as url:
        said = await Client(session, url).post("/predict", ROW)

    assert said["ttft_ms"] == 10
    assert "ttft.eppm is left out: not a latency model" in caplog.text


# --- the contract of the training server ---------------------------------------------------------------------------------


async def test_the_training_servers_prediction_has_every_field(trainer: Client) -> None:
    said = await trainer.post("/predict", ROW)

    assert list(said) == [
        "ttft_ms",
        "tpot_ms",
        "ttft_uncertainty",
        "tpot_uncertainty",
        "ttft_prediction_bounds",
        "tpot_prediction_bounds",
        "predicted_at",
        "model_type",
        "objective_type",
        "quantile",
    ]
    assert (said["model_type"], said["objective_type"], said["quantile"]) == ("xgboost", "quantile", 0.9)


@pytest.mark.parametrize("kind", ["xgboost", "bayesian_ridge"])
async def test_bounds_lie_around_the_prediction(session: aiohttp.ClientSession, tmp_path: Path, kind: str) -> None:
    async with serving(training_app(tmp_path, LATENCY_MODEL_TYPE=kind, LATENCY_QUANTILE_ALPHA="0.5")) as url:
        trainer = Client(session, url)
        await trainer.send(1000)
        await until(lambda: has_learnt(trainer))

        said = await trainer.post("/predict", ROW)

    for target in ("ttft", "tpot"):
        low, high = said[f"{target}_prediction_bounds"]
        assert 0 <= low < said[f"{target}_ms"] < high
        assert said[f"{target}_uncertainty"] > 0


async def test_what_it_tells_about_samples(trainer: Client) -> None:
    await trainer.send(1000)
    await until(lambda: has_learnt(trainer))

    status = await trainer.get("/data/status")

    assert {"training_data", "test_data", "ensemble", "metrics", "bucket_distribution", "model_ready"} <= set(status)
    assert {"ttft_samples", "tpot_samples", "total_samples"} == set(status["training_data"])
    both = [status[part]["ttft_samples"] for part in ("training_data", "test_data")]
    assert sum(both) == 500
    assert both[1] == 50
    assert sum(status["bucket_distribution"].values()) == both[0]
    assert all(name.startswith("queue_") and "_cache_" in name for name in status["bucket_distribution"])
    assert status["metrics"]["ttft"]["coverage_percent"] > 50
    assert status["last_retrain"] is not None


async def test_flushing_forgets_samples_and_keeps_the_model(trainer: Client) -> None:
    await trainer.send(1000)
    await until(lambda: has_learnt(trainer))

    flushed = await trainer.post("/flush", {"reason": "new model server"})

    assert set(flushed) == {
        "success",
        "flushed_at",
        "reason",
        "ttft_training_samples_flushed",
        "ttft_test_samples_flushed",
        "tpot_training_samples_flushed",
        "tpot_test_samples_flushed",
        "metrics_cleared",
        "message",
    }
    assert (flushed["ttft_training_samples_flushed"], flushed["ttft_test_samples_flushed"]) == (450, 50)
    assert flushed["reason"] == "new model server"
    status = await trainer.get("/data/status")
    assert status["training_data"]["total_samples"] == 0
    assert (await trainer.post("/predict", ROW))["ttft_ms"] != 10


async def test_only_one_part_may_be_flushed(trainer: Client) -> None:
    await trainer.send(1000)

    flushed = await trainer.post("/flush", {"flush_training_data": False, "flush_metrics": False})

    assert (flushed["ttft_training_samples_flushed"], flushed["ttft_test_samples_flushed"]) == (0, 50)
    assert flushed["metrics_cleared"] is False


async def test_models_are_given_away_with_an_etag(trainer: Client, session: aiohttp.ClientSession) -> None:
    await trainer.send(1000)
    await until(lambda: has_learnt(trainer))
    await trainer.post("/flush")
    info = await trainer.get("/model/ttft/info")
    url = f"{trainer.url}/model/ttft/download"

    async with session.get(url) as response:
        data, etag = await response.read(), response.headers["etag"]
        kind = response.headers["content-type"]
    async with session.get(url, headers={"if-none-match": etag}) as unchanged:
        repeated = await unchanged.read()
    async with session.get(url, headers={"if-none-match": '"another"'}) as changed:
        again = await changed.read()

    assert kind == "application/octet-stream"
    assert list(decode(data).targets) == ["ttft"]
    assert (unchanged.status, repeated, unchanged.headers["etag"]) == (304, b"", etag)
    assert (changed.status, again) == (200, data)
    assert {"model_name", "path", "size_bytes", "last_modified", "exists", "model_type", "quantile"} <= set(info)
    assert (info["size_bytes"], info["exists"], info["etag"]) == (len(data), True, etag)


@pytest.mark.parametrize("name", ["ttft_scaler", "tpot_gated", "nonsense", "..%2f..%2fetc%2fpasswd"])
@pytest.mark.parametrize("what", ["info", "download"])
async def test_models_that_do_not_exist_are_404(trainer: Client, name: str, what: str) -> None:
    said = await trainer.get(f"/model/{name}/{what}", status=404)

    assert isinstance(said["detail"], str)


async def test_lists_of_models(trainer: Client) -> None:
    listed = await trainer.get("/models/list")
    download = await trainer.get("/model/download/info")

    assert {name for name, model in listed["models"].items() if model["exists"]} == {"ttft", "tpot"}
    assert {"models", "model_type", "quantile", "server_time", "evaluation_metrics"} == set(listed)
    assert download["model_status"]["ttft_model_ready"] is True
    assert download["model_type"] == "xgboost"


async def test_the_export_seeds_another_deployment(
    trainer: Client, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await trainer.send(1000)
    await until(lambda: has_learnt(trainer))
    async with session.get(f"{trainer.url}/model/export") as response:
        data = await response.read()
        assert "seed-model.tar.gz" in response.headers["content-disposition"]
    seeded = tmp_path / "seeded"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(seeded, filter="data")
    metadata = json.loads((seeded / "metadata.json").read_text())

    async with serving(training_app(seeded)) as url:
        said = await Client(session, url).post("/predict", ROW)

    assert said["ttft_ms"] != 10
    assert set(metadata) == {"model_type", "quantile_alpha", "exported_at", "ttft_samples", "tpot_samples"}
    assert metadata["ttft_samples"] == 450


async def test_trees_can_be_read(trainer: Client) -> None:
    await trainer.send(2000)
    await until(lambda: has_learnt(trainer))

    trees = await until(lambda: trainer.get("/model/ttft/xgb/json"))

    assert {"nodeid", "depth", "split", "split_condition", "yes", "no", "missing", "children"} == set(trees[0])
    for kind in ("lgb/txt", "lgb/importances"):
        assert "LightGBM" in (await trainer.get(f"/model/ttft/{kind}", status=404))["detail"]


async def test_the_metrics_page_is_in_prometheus_format(trainer: Client, session: aiohttp.ClientSession) -> None:
    await trainer.send(1000)
    await until(lambda: has_learnt(trainer))

    async with session.get(f"{trainer.url}/metrics") as response:
        text = await response.text()
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}

    assert {
        "model_type",
        "objective_type",
        "model_quantile",
        "ensemble_active",
        "ensemble_mode",
        "model_age_seconds",
        "ttft_importance",
        "tpot_importance",
        "training_samples_count",
        "training_samples_queue_total",
        "training_samples_cache_total",
        "training_samples_prefix_total",
        "prefix_score_mean",
        "avg_ttft_by_prefix",
        "median_ttft_by_prefix",
        "ttft_quantile_loss",
        "tpot_coverage_percent",
        "ttft_violation_rate_percent",
        "ttft_mae",
        "tpot_rmse",
        "target_coverage_percent",
        "target_violation_rate_percent",
    } <= names


async def test_ridge_tells_its_coefficients(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with serving(training_app(tmp_path, LATENCY_MODEL_TYPE="bayesian_ridge")) as url:
        trainer = Client(session, url)
        await trainer.send(1000)
        await until(lambda: has_learnt(trainer))

        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
        trees = await trainer.get("/model/ttft/xgb/json", status=404)

    assert 'ttft_coef{feature="num_request_waiting"} ' in text
    assert "\ntpot_intercept " in text
    assert "bayesian_ridge" in trees["detail"]


async def test_health_and_roots(trainer: Client, predictor: Client) -> None:
    assert await trainer.get("/healthz") == {"status": "ok"}
    assert await trainer.get("/readyz") == {"status": "ready"}
    assert (await predictor.get("/healthz"))["status"] == "ok"
    assert (await predictor.get("/readyz"))["status"] == "ready"
    for client in (trainer, predictor):
        root = await client.get("/")
        assert {"message", "model_type", "objective_type", "quantile"} <= set(root)
        schema = await client.get("/openapi.json")
        assert schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"]


async def test_how_ttft_goes_with_the_prefix(trainer: Client) -> None:
    await trainer.send(1000)

    told = await trainer.get("/debug/prefix_distribution")

    assert list(told["distribution"]) == ["0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00"]
    assert sum(part["count"] for part in told["distribution"].values()) == 450
    assert told["overall"]["correlation_with_ttft"] < 0


# --- the contract of the prediction server -------------------------------------------------------------------------------


async def test_all_three_routes_say_the_same(trainer: Client, predictor: Client) -> None:
    await trainer.send(1200)
    await until(lambda: has_versions(predictor))
    await trainer.post("/flush")
    row = {**ROW, "prefill_tokens_in_flight": 30_000, "decode_tokens_in_flight": 4000, "pod_type": "decode"}

    async def asked() -> list[Any]:
        return [
            await predictor.post("/predict", row),
            (await predictor.post("/predict/bulk", {"requests": [row]}))["predictions"][0],
            (await predictor.post("/predict/bulk/strict", {"requests": [row]}))["predictions"][0],
        ]

    async def settled() -> list[Any]:
        said = await asked()
        return said if len({s["last_model_load"] for s in said}) == 1 else []

    said = await until(settled)

    assert len({(s["ttft_ms"], s["tpot_ms"]) for s in said}) == 1
    assert all(list(s) == PREDICTION_FIELDS for s in said)


async def test_bulk_answers_have_every_field(predictor: Client) -> None:
    bulk = await predictor.post("/predict/bulk", {"requests": [ROW] * 3})
    strict = await predictor.post("/predict/bulk/strict", {"requests": [ROW] * 3})

    fields = ["total_requests", "successful_predictions", "failed_predictions", "processing_time_ms"]
    assert list(bulk) == ["predictions", "errors", *fields]
    assert list(strict) == ["predictions", *fields]
    assert [strict[name] for name in fields[:3]] == [3, 3, 0]


async def test_bulk_tells_which_requests_cannot_be_used(predictor: Client) -> None:
    wrong = {**ROW, "kv_cache_percentage": 7}

    bulk = await predictor.post("/predict/bulk", {"requests": [ROW, wrong, "nonsense"]})

    assert [p is None for p in bulk["predictions"]] == [False, True, True]
    assert bulk["errors"][0] == {
        "index": 1,
        "error": "Expected `float` <= 1.0",
        "request": wrong,
    }
    assert [bulk[f"{name}_predictions"] for name in ("successful", "failed")] == [1, 2]


async def test_strict_takes_all_or_nothing_and_says_where(predictor: Client) -> None:
    wrong = {**ROW, "num_request_waiting": -1}

    refused = await predictor.post("/predict/bulk/strict", {"requests": [ROW, wrong]}, status=422)

    assert refused["detail"] == [
        {
            "type": "value_error",
            "loc": ["body", "requests", 1, "num_request_waiting"],
            "msg": "Expected `int` >= 0",
        }
    ]


@pytest.mark.parametrize("count", [101, 512, 10_000])
async def test_more_than_a_hundred_endpoints_are_no_problem(predictor: Client, count: int) -> None:
    said = await predictor.post("/predict/bulk/strict", {"requests": [ROW] * count})

    assert said["successful_predictions"] == count


async def test_no_and_too_many_requests_are_refused(predictor: Client) -> None:
    for count in (0, 10_001):
        await predictor.post("/predict/bulk/strict", {"requests": [ROW] * count}, status=422)
        await predictor.post("/predict/bulk", {"requests": [ROW] * count}, status=422)


async def test_without_a_training_server_it_is_healthy_and_not_ready(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with serving(prediction_app(tmp_path, "http://127.0.0.1:1")) as url:
        client = Client(session, url)

        await client.get("/healthz")
        await client.get("/readyz", status=503)
        await client.post("/predict", ROW, status=503)
        await client.post("/predict/bulk", {"requests": [ROW]}, status=503)
        await client.post("/predict/bulk/strict", {"requests": [ROW]}, status=503)
        reloaded = await client.post("/reload")

    assert (reloaded["synced"], reloaded["loaded"]) == (False, False)


async def test_reload_looks_at_once(session: aiohttp.ClientSession, trainer: Client, tmp_path: Path) -> None:
    async with serving(prediction_app(tmp_path, trainer.url, MODEL_SYNC_INTERVAL_SEC="1000")) as url:
        client = Client(session, url)
        await until(lambda: is_ready(client))
        await trainer.send(1000)
        await until(lambda: has_learnt(trainer))

        reloaded = await client.post("/reload")

        assert set(reloaded) == {
            "synced",
            "loaded",
            "is_ready",
            "model_type",
            "objective_type",
            "quantile",
            "last_load_time",
        }
        assert reloaded["synced"] is True
        assert (await client.post("/predict", ROW))["ttft_ms"] != 10


async def test_bodies_as_go_writes_them(trainer: Client, predictor: Client) -> None:
    """encoding/json: whole floats without a point, times with nanoseconds and an offset."""
    entry = (
        '{"kv_cache_percentage":0,"input_token_length":7,"num_request_waiting":0,"num_request_running":1,'
        '"actual_ttft_ms":123,"actual_tpot_ms":0,"num_tokens_generated":0,"prefix_cache_score":1,'
        '"pod_type":"prefill","prefill_tokens_in_flight":0,"decode_tokens_in_flight":0,'
        '"timestamp":"2026-08-21T10:11:12.123456789+02:00"}'
    )
    headers = {"content-type": "application/json"}
    async with trainer.session.post(
        f"{trainer.url}/add_training_data_bulk", data=f'{{"entries":[{entry}]}}', headers=headers
    ) as response:
        assert (response.status, await response.json()) == (202, {"message": "Accepted 1 training samples."})
    async with predictor.session.post(
        f"{predictor.url}/predict/bulk/strict", data=f'{{"requests":[{entry}]}}', headers=headers
    ) as response:
        assert response.status == 200


# --- nonsense ------------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "1",
    "nan",
    -1,
    1e308,
    10**400,
    -0.0,
    0.5,
    [],
    {},
    [[]],
    "\ud800",
    "\0",
    2**63,
)
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"--1", b"\xff", b'"\\ud800"', b"", b"{", b"[", b'"')
SHAPES = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\x00",
    b"\xff\xfe",
    b'{"requests":',
    b"[" * 100_000,
    b'{"requests":' * 20_000,
    b'{"requests":[' + b"[" * 50_000,
)


def nonsense(chance: random.Random) -> bytes:
    """A body that is wrong in one of many ways, or right by accident."""
    way = chance.randrange(6)
    if way == 0:
        return chance.choice(SHAPES)
    if way == 1:
        return chance.randbytes(chance.randrange(200))
    rows: list[Any] = [dict(ROW) for _ in range(chance.randrange(1, 4))]
    for row in rows:
        for _ in range(chance.randrange(1, 3)):
            row[chance.choice([*ROW, "pod_type", "prefill_tokens_in_flight", "what"])] = chance.choice(VALUES)
        if chance.random() < 0.2:
            row.pop(chance.choice(list(ROW)), None)
    if way == 2:
        rows[chance.randrange(len(rows))] = chance.choice(VALUES)
    body = json.dumps({"requests": chance.choice(VALUES) if way == 3 else rows, "entries": rows}).encode()
    if way == 4:
        return body[: chance.randrange(len(body))]
    if way == 5:
        return body.replace(b": 0.25", b": " + chance.choice(LITERALS)).replace(b"512", chance.choice(LITERALS))
    return body


async def test_ten_thousand_malformed_bulk_requests_are_refused_without_a_500(predictor: Client) -> None:
    chance = random.Random(8)
    statuses: dict[int, int] = {}

    async def send(count: int, path: str) -> None:
        for _ in range(count):
            async with predictor.session.post(
                predictor.url + path, data=nonsense(chance), headers={"content-type": "application/json"}
            ) as response:
                statuses[response.status] = statuses.get(response.status, 0) + 1
                told = json.loads(await response.read())
                assert "detail" in told or "predictions" in told

    await asyncio.gather(*(send(1250, path) for path in ("/predict/bulk", "/predict/bulk/strict") * 4))

    assert sum(statuses.values()) == 10_000
    assert set(statuses) == {200, 422}
    assert statuses[422] > 5000
    await predictor.post("/predict/bulk/strict", {"requests": [ROW]})


@pytest.mark.parametrize("path", ["/add_training_data_bulk", "/predict", "/flush"])
async def test_the_training_server_refuses_nonsense_as_well(trainer: Client, path: str) -> None:
    chance = random.Random(9)
    before = await trainer.post("/predict", ROW)

    for _ in range(400):
        async with trainer.session.post(trainer.url + path, data=nonsense(chance)) as response:
            assert response.status in (200, 202, 422)
            json.loads(await response.read())

    assert (await trainer.post("/predict", ROW))["ttft_ms"] == before["ttft_ms"]


async def test_a_batch_with_one_bad_entry_is_refused_whole(trainer: Client) -> None:
    batch = entries(3)
    batch[1]["kv_cache_percentage"] = 1.5

    refused = await trainer.post("/add_training_data_bulk", {"entries": batch}, status=422)

    assert refused["detail"][0]["loc"] == ["body", "entries", 1, "kv_cache_percentage"]
    assert (await trainer.get("/data/status"))["training_data"]["total_samples"] == 0


async def test_huge_latencies_are_accepted_and_left_out(trainer: Client) -> None:
    batch = entries(200)
    for entry in batch:
        entry["actual_ttft_ms"] = 1e300

    await trainer.post("/add_training_data_bulk", {"entries": batch}, status=202)

    assert (await trainer.get("/data/status"))["training_data"]["ttft_samples"] == 0


async def test_errors_show_nothing_of_the_inside(trainer: Client) -> None:
    for method, path in (("GET", "/nowhere"), ("DELETE", "/predict")):
        async with trainer.session.request(method, trainer.url + path) as response:
            assert response.status in (404, 405)
            assert set(await response.json()) == {"detail"}
