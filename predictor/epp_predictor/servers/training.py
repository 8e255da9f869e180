"""The training service: takes samples, learns from them, and gives its models away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import tarfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response

from epp_predictor.dump import dumped
from epp_predictor.features import Floats
from epp_predictor.prior import TARGETS
from epp_predictor.servers.exposition import CONTENT_TYPE, page
from epp_predictor.servers.files import read_model, write_model
from epp_predictor.servers.http import answer, body_of, read_body, with_errors
from epp_predictor.servers.learning import BoostedLearner, Learner, RidgeLearner
from epp_predictor.servers.schema import BulkTraining, FlushRequest, PredictionRequest, features_of, rows_of
from epp_predictor.servers.serving import Boosted, Predicted, RidgeTarget, ServedTarget, bootstrap
from epp_predictor.servers.store import PREFIX_RANGES, Store
from epp_predictor.servers.variables import TrainingSettings

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 5.0
MODEL_NAMES: Final = ("ttft", "tpot", "ttft_scaler", "tpot_scaler", "ttft_gated", "tpot_gated")
"""Those that llm-d's server knows. Here a scaler is part of its model, and there are no gated ones."""
ENDPOINTS: Final = ("/model/{name}/info", "/model/{name}/download", "/models/list", "/model/export")


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A model's bytes, as they are given away."""

    data: bytes
    etag: str
    modified_s: float


class TrainingService:
    """What the routes do, without HTTP."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.models: dict[str, ServedTarget] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.last_retrain_s: float | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        now_s = time.time()
        for target in TARGETS:
            found = read_model(settings.paths[target], target)
            seed = found[0] if found is not None and found[0].kind == settings.objectives.model_type else None
            self._use(target, seed or bootstrap(target, now_s))
        self.learner = self._make_learner()

    def _make_learner(self) -> Learner:
        if self.settings.objectives.model_type == "xgboost":
            seeds = {t: m for t, m in self.models.items() if isinstance(m, Boosted) and m.version}
            return BoostedLearner(self.settings, seeds, self.publish)
        ridges = {t: m for t, m in self.models.items() if isinstance(m, RidgeTarget)}
        return RidgeLearner(self.settings, self.store, ridges, self.publish)

    def _use(self, target: str, model: ServedTarget) -> None:
        data = model.encode()
        self.models[target] = model
        self.artifacts[target] = Artifact(data, f'"{hashlib.sha256(data).hexdigest()}"', time.time())

    def publish(self, target: str, model: ServedTarget) -> None:
        """A new model of the learner's."""
        self.store.settle(time.time())
        self.store.score(target, model, self.settings.objectives)
        self._use(target, model)
        self.last_retrain_s = time.time()
        writing = asyncio.create_task(self._write(target))
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)

    async def _write(self, target: str) -> None:
        """The file of the model in use. Two at a time could leave the older one."""
        async with self._one_at_a_time:
            await asyncio.to_thread(write_model, self.artifacts[target].data, self.settings.paths[target])

    async def written(self) -> None:
        """Returns when the files are those of the models in use."""
        await asyncio.gather(*self._writes)

    def add(self, rows: Floats) -> None:
        self.store.add(rows, time.time())
        self.learner.send(rows)

    def flush(self, asked: FlushRequest) -> dict[str, Any]:
        flushed = self.store.flush(training=asked.flush_training_data, test=asked.flush_test_data)
        if asked.flush_training_data:
            self.learner.flush()
        if asked.flush_metrics:
            self.store.forget_scores()
        return {
            "success": True,
            "flushed_at": _iso(time.time()),
            "reason": asked.reason,
            **flushed,
            "metrics_cleared": asked.flush_metrics,
            "message": f"{sum(flushed.values())} samples forgotten; models stay",
        }

    def predict(self, request: PredictionRequest) -> dict[str, Any]:
        objectives = self.settings.objectives
        features = features_of([request], objectives)
        told: dict[str, Any] = {}
        predicted = {target: self.models[target].predict(features, objectives) for target in TARGETS}
        told.update({f"{target}_ms": float(p.ms[0]) for target, p in predicted.items()})
        told.update({f"{target}_uncertainty": float(p.uncertainty[0]) for target, p in predicted.items()})
        told.update({f"{target}_prediction_bounds": _bounds(p) for target, p in predicted.items()})
        return {**told, "predicted_at": _iso(time.time()), **self.what()}

    def what(self) -> dict[str, Any]:
        objectives = self.settings.objectives
        return {
            "model_type": objectives.model_type,
            "objective_type": objectives.objective,
            "quantile": objectives.quantile,
        }

    def data_status(self) -> dict[str, Any]:
        self.store.settle(time.time())
        counts = self.store.counts()
        scores = self.store.scores
        return {
            **counts,
            "ensemble": {
                "ensemble_mode": False,
                "ensemble_active": False,
                "min_samples_for_split": 0,
                **{f"{target}_{part}_samples": 0 for target in TARGETS for part in ("queued", "noqueue")},
            },
            "metrics": {target: dict(last[-1]) if (last := scores[target]) else {} for target in TARGETS},
            "bucket_distribution": {
                f"queue_{q}_cache_{c}_prefix_{p}": n for (q, c, p), n in self.store.buckets("ttft").items()
            },
            "model_ready": {target: target in self.models for target in TARGETS},
            "bootstrap": {target: model.version == 0 for target, model in self.models.items()},
            "training": self.learner.status(),
            "last_retrain": None if self.last_retrain_s is None else _iso(self.last_retrain_s),
        }

    def model_info(self, name: str) -> dict[str, Any]:
        """Raises HTTPException 404."""
        if name not in MODEL_NAMES:
            raise HTTPException(404, f"expected one of {', '.join(MODEL_NAMES)}")
        artifact = self.artifacts.get(name)
        if artifact is None:
            raise HTTPException(404, f"there is no {name} here: {_why_not(name)}")
        objectives = self.settings.objectives
        return {
            "model_name": name,
            "path": str(self.settings.paths[name]),
            "size_bytes": len(artifact.data),
            "last_modified": _iso(artifact.modified_s),
            "exists": True,
            "model_type": objectives.model_type,
            "quantile": objectives.quantile,
            "etag": artifact.etag,
            "version": self.models[name].version,
        }

    def models_list(self) -> dict[str, Any]:
        listed = {}
        for name in MODEL_NAMES:
            artifact = self.artifacts.get(name)
            listed[name] = {
                "exists": artifact is not None,
                "size_bytes": len(artifact.data) if artifact else 0,
                "last_modified": _iso(artifact.modified_s) if artifact else None,
            }
        objectives = self.settings.objectives
        return {
            "models": listed,
            "model_type": objectives.model_type,
            "quantile": objectives.quantile,
            "server_time": _iso(time.time()),
            "evaluation_metrics": {target: list(scores) for target, scores in self.store.scores.items()},
        }

    def export(self) -> bytes:
        """A tar.gz with both models and what they are, to begin another deployment with."""
        counts = self.store.counts()["training_data"]
        objectives = self.settings.objectives
        metadata = {
            "model_type": objectives.model_type,
            "quantile_alpha": objectives.quantile,
            "exported_at": _iso(time.time()),
            **{f"{target}_samples": counts[f"{target}_samples"] for target in TARGETS},
        }
        files = {f"{target}.eppm": artifact.data for target, artifact in self.artifacts.items()}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, data in {**files, "metadata.json": msgspec.json.encode(metadata)}.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def _bounds(predicted: Predicted) -> list[float]:
    return [float(predicted.low[0]), float(predicted.high[0])]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _why_not(name: str) -> str:
    return "a scaler is part of its model" if name.endswith("_scaler") else "one model serves every queue"


def make_app(settings: TrainingSettings) -> FastAPI:
    service = TrainingService(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        learning = asyncio.create_task(_learn(service.learner))
        yield
        learning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await learning
        await service.written()

    app = with_errors(FastAPI(title="epp-predictor train", lifespan=lifespan))
    app.state.service = service
    _add_samples_routes(app, service)
    _add_model_routes(app, service)
    _add_debug_routes(app, service)
    return app


async def _learn(learner: Learner) -> None:
    """For ever: a fault in learning is told and must not end it, or an old model would be served in silence."""
    while True:
        try:
            await learner.run()
        except Exception:
            logger.exception("learning failed; it goes on in %.0f s", _PAUSE_S)
        await asyncio.sleep(_PAUSE_S)


def _add_samples_routes(app: FastAPI, service: TrainingService) -> None:
    settings = service.settings

    @app.post("/add_training_data_bulk", status_code=202, openapi_extra=body_of(BulkTraining))
    async def add_training_data_bulk(request: Request) -> Response:
        entries = (await read_body(request, BulkTraining)).entries
        service.add(rows_of(entries, settings.objectives, time.time(), settings.max_age_s))
        return answer({"message": f"Accepted {len(entries)} training samples."}, 202)

    @app.post("/predict", openapi_extra=body_of(PredictionRequest))
    async def predict(request: Request) -> Response:
        return answer(service.predict(await read_body(request, PredictionRequest)))

    @app.post("/flush", openapi_extra=body_of(FlushRequest))
    async def flush(request: Request) -> Response:
        return answer(service.flush(await read_body(request, FlushRequest, may_be_empty=True)))

    @app.get("/data/status")
    async def data_status() -> Response:
        return answer(service.data_status())


def _add_model_routes(app: FastAPI, service: TrainingService) -> None:
    objectives = service.settings.objectives

    @app.get("/model/download/info")
    async def download_info() -> Response:
        ready = {f"{target}_model_ready": target in service.models for target in TARGETS}
        return answer(
            {
                **service.what(),
                "available_endpoints": ENDPOINTS,
                "model_status": {**ready, "ttft_scaler_ready": False, "tpot_scaler_ready": False},
                "evaluation_info": {target: list(scores) for target, scores in service.store.scores.items()},
            }
        )

    @app.get("/model/export")
    async def export() -> Response:
        headers = {"content-disposition": 'attachment; filename="seed-model.tar.gz"'}
        return Response(await asyncio.to_thread(service.export), 200, headers, "application/gzip")

    @app.get("/model/{name}/info")
    async def model_info(name: str) -> Response:
        return answer(service.model_info(name))

    @app.get("/model/{name}/download")
    async def download(name: str, request: Request) -> Response:
        """The model as bytes of this project's own format (no pickle), with an ETag."""
        service.model_info(name)
        artifact = service.artifacts[name]
        headers = {"etag": artifact.etag, "cache-control": "no-cache"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if artifact.etag in known or "*" in known:
            return Response(None, 304, headers)
        headers["content-disposition"] = f'attachment; filename="{name}.eppm"'
        return Response(artifact.data, 200, headers, "application/octet-stream")

    @app.get("/models/list")
    async def models_list() -> Response:
        return answer(service.models_list())

    @app.get("/model/{name}/xgb/json")
    async def trees(name: str) -> Response:
        model = service.models.get(name)
        if not isinstance(model, Boosted):
            raise HTTPException(404, f"no XGBoost model of {name}: the model type is {objectives.model_type}")
        return answer([] if model.snapshot.model.trees is None else dumped(model.snapshot.model.trees))

    @app.get("/model/{name}/lgb/txt")
    @app.get("/model/{name}/lgb/importances")
    async def lightgbm(name: str) -> Response:
        raise HTTPException(404, f"no LightGBM model of {name}: the model type is {objectives.model_type}")


def _add_debug_routes(app: FastAPI, service: TrainingService) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return answer({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        return answer({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        service.store.settle(time.time())
        text = page(service.store, service.models, service.settings.objectives, time.time())
        return Response(text, 200, media_type=CONTENT_TYPE)

    @app.get("/debug/prefix_distribution")
    async def prefix_distribution() -> Response:
        service.store.settle(time.time())
        ranges = dict(zip(PREFIX_RANGES, service.store.by_prefix(), strict=True))
        return answer({"distribution": ranges, "overall": service.store.prefix_overall()})

    @app.get("/")
    async def root() -> Response:
        description = "learns TTFT and TPOT from finished requests"
        return answer({"message": "latency training", **service.what(), "description": description})


def app_from_environment() -> FastAPI:
    """For uvicorn."""
    return make_app(TrainingSettings.from_environment(os.environ))
