"""The prediction service: `/predict`, in bulk, strictly, from models that a training service publishes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from fastapi import FastAPI, HTTPException, Request, Response

from epp_predictor.prior import TARGETS
from epp_predictor.servers.following import Followed, Follower
from epp_predictor.servers.http import Refused, answer, body_of, decoded, read_body, with_errors
from epp_predictor.servers.schema import BulkPrediction, LooseBulkPrediction, PredictionRequest, features_of
from epp_predictor.servers.variables import Objectives, PredictionSettings


class PredictionResponse(msgspec.Struct):
    ttft_ms: float
    tpot_ms: float
    predicted_at: str
    model_type: str
    objective_type: str
    quantile: float
    last_model_load: str | None


class PredictionService:
    """What the routes do, without HTTP."""

    def __init__(self, settings: PredictionSettings) -> None:
        self.settings = settings
        self.followed = Followed()
        self.follower: Follower | None = None

    @property
    def objectives(self) -> Objectives:
        return self.settings.objectives

    @property
    def model_type(self) -> str:
        models = self.followed.models
        return models["ttft"].kind if "ttft" in models else self.objectives.model_type

    @property
    def last_load(self) -> str | None:
        loaded_s = self.followed.last_load_s
        return None if loaded_s is None else _iso(loaded_s)

    def predict(self, requests: Sequence[PredictionRequest]) -> list[PredictionResponse]:
        """Raises HTTPException 503 without models."""
        models = self.followed.models
        if not self.followed.is_ready:
            raise HTTPException(503, "no model yet")
        features = features_of(requests, self.objectives)
        ttft = models["ttft"].predict(features, self.objectives).ms.tolist()
        tpot = models["tpot"].predict(features, self.objectives).ms.tolist()
        now, kind, loaded = _iso(time.time()), self.model_type, self.last_load
        objective, quantile = self.objectives.objective, self.objectives.quantile
        return [
            PredictionResponse(first, each, now, kind, objective, quantile, loaded)
            for first, each in zip(ttft, tpot, strict=True)
        ]

    def status(self) -> dict[str, Any]:
        followed = self.followed
        return {
            "is_ready": followed.is_ready,
            "model_type": self.model_type,
            "objective_type": self.objectives.objective,
            "quantile": self.objectives.quantile,
            "last_model_load": self.last_load,
            "training_server_url": self.settings.training_url,
            "models_exist": {
                **{f"{target}_model": target in followed.models for target in TARGETS},
                **{f"{target}_scaler": False for target in TARGETS},
            },
            "ensemble_active": False,
            "bootstrap": any(model.version == 0 for model in followed.models.values()),
            "model_versions": {target: model.version for target, model in followed.models.items()},
            "problem": followed.problem,
        }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def make_app(settings: PredictionSettings) -> FastAPI:
    service = PredictionService(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            service.follower = Follower(settings, service.followed, session)
            await service.follower.load_copies()
            following = asyncio.create_task(service.follower.run())
            yield
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    app = with_errors(FastAPI(title="epp-predictor serve", lifespan=lifespan))

    @app.post("/predict", openapi_extra=body_of(PredictionRequest))
    async def predict(request: Request) -> Response:
        asked = await read_body(request, PredictionRequest)
        return answer(service.predict([asked])[0])

    @app.post("/predict/bulk", openapi_extra=body_of(BulkPrediction))
    async def predict_bulk(request: Request) -> Response:
        """Requests that cannot be used are told one by one; the others are predicted."""
        before = time.perf_counter()
        raw = (await read_body(request, LooseBulkPrediction)).requests
        sound: dict[int, PredictionRequest] = {}
        errors = []
        for index, item in enumerate(raw):
            try:
                sound[index] = decoded(item, PredictionRequest)
            except Refused as error:
                errors.append({"index": index, "error": error.detail[0]["msg"], "request": item})
        predictions: list[PredictionResponse | None] = [None] * len(raw)
        for index, response in zip(sound, service.predict(list(sound.values())), strict=True):
            predictions[index] = response
        return answer(_bulk(predictions, before, errors=errors))

    @app.post("/predict/bulk/strict", openapi_extra=body_of(BulkPrediction))
    async def predict_bulk_strict(request: Request) -> Response:
        """All or nothing."""
        before = time.perf_counter()
        asked = (await read_body(request, BulkPrediction)).requests
        return answer(_bulk(service.predict(asked), before))

    @app.get("/status")
    async def status() -> Response:
        return answer(service.status())

    @app.post("/reload")
    async def reload() -> Response:
        """Look at the training service now."""
        assert service.follower is not None
        synced = await service.follower.look()
        status = service.status()
        told = {name: status[name] for name in ("is_ready", "model_type", "objective_type", "quantile")}
        loaded = service.followed.is_ready
        return answer({"synced": synced, "loaded": loaded, **told, "last_load_time": status["last_model_load"]})

    @app.get("/healthz")
    async def healthz() -> Response:
        return answer({"status": "ok", "service": "prediction-server"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if not service.followed.is_ready:
            raise HTTPException(503, "no model yet")
        return answer({"status": "ready", "model_type": service.model_type})

    @app.get("/")
    async def root() -> Response:
        status = service.status()
        told = {name: status[name] for name in ("model_type", "objective_type", "quantile", "is_ready")}
        return answer({"message": "latency prediction, follows a training server", **told})

    return app


def _bulk(
    predictions: Sequence[PredictionResponse | None], before: float, *, errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    failed = sum(p is None for p in predictions)
    told: dict[str, Any] = {"predictions": predictions}
    if errors is not None:
        told["errors"] = errors
    return {
        **told,
        "total_requests": len(predictions),
        "successful_predictions": len(predictions) - failed,
        "failed_predictions": failed,
        "processing_time_ms": (time.perf_counter() - before) * 1000,
    }


def app_from_environment() -> FastAPI:
    """For uvicorn with several workers."""
    return make_app(PredictionSettings.from_environment(os.environ))
