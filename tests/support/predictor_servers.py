"""The standalone predictor servers on loopback, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvicorn
from fastapi import FastAPI

from epp_predictor.features import COLUMN
from epp_predictor.servers import prediction, training
from epp_predictor.servers.listening import listen
from epp_predictor.servers.variables import PredictionSettings, TrainingSettings
from tests.support.latency_world import draw

FEWEST_NEW = 50
"""Samples of a target before a training server fits again."""

# A row as an EPP sends it.
ROW: Mapping[str, Any] = {
    "kv_cache_percentage": 0.25,
    "input_token_length": 512,
    "num_request_waiting": 2,
    "num_request_running": 4,
    "num_tokens_generated": 1,
    "prefix_cache_score": 0.5,
}


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The URL of the application, served by uvicorn on a free port."""
    listener = listen("127.0.0.1", 0)
    # A connection is never closed as a client sends on it, however long it was idle.
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_keep_alive=600))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            assert not task.done(), task.result()
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def training_app(folder: Path, **variables: str) -> FastAPI:
    """Quick to learn."""
    environment = {
        "LATENCY_TTFT_MODEL_PATH": str(folder / "ttft.eppm"),
        "LATENCY_TPOT_MODEL_PATH": str(folder / "tpot.eppm"),
        "LATENCY_RETRAINING_INTERVAL_SEC": "0.2",
        "LATENCY_MIN_SAMPLES_FOR_RETRAIN": "100",
        "LATENCY_MIN_SAMPLES_FOR_RETRAIN_FRESH": str(FEWEST_NEW),
        **variables,
    }
    return training.make_app(TrainingSettings.from_environment(environment))


def prediction_app(folder: Path, training_url: str, **variables: str) -> FastAPI:
    environment = {
        "TRAINING_SERVER_URL": training_url,
        "LOCAL_TTFT_MODEL_PATH": str(folder / "local" / "ttft.eppm"),
        "LOCAL_TPOT_MODEL_PATH": str(folder / "local" / "tpot.eppm"),
        "MODEL_SYNC_INTERVAL_SEC": "0.1",
        "DOWNLOAD_RETRIES": "1",
        **variables,
    }
    return prediction.make_app(PredictionSettings.from_environment(environment))


def entries(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Samples, TTFT and TPOT in entries of their own, as an EPP sends them."""
    requests = draw(count, np.random.default_rng(seed))
    made = []
    for i in range(count):
        row = requests.features[i]
        features = {
            "kv_cache_percentage": float(row[COLUMN["kv_cache_percentage"]]),
            "input_token_length": int(row[COLUMN["input_token_length"]]),
            "num_request_waiting": int(row[COLUMN["num_request_waiting"]]),
            "num_request_running": int(row[COLUMN["num_request_running"]]),
            "prefix_cache_score": float(row[COLUMN["prefix_cache_score"]]),
            "prefill_tokens_in_flight": int(row[COLUMN["prefill_tokens_in_flight"]]),
            "num_tokens_generated": 1,
        }
        is_ttft = i % 2 == 0
        made.append(
            {
                **features,
                "actual_ttft_ms": float(requests.ttft_ms[i]) if is_ttft else 0,
                "actual_tpot_ms": 0 if is_ttft else float(requests.tpot_ms[i]),
            }
        )
    return made


class Client:
    """JSON over one connection pool."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str, *, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        async with self.session.post(self.url + path, json=body) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def send(self, count: int, seed: int = 0) -> None:
        await self.post("/add_training_data_bulk", {"entries": entries(count, seed)}, status=202)
