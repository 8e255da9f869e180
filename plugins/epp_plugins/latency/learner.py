"""The predictor, the training process beside it, and what both know of endpoints.

Nothing here waits: samples go to the process through memory, models come from it when `poll` asks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from epp.api import Endpoint, Floats, Handle, OutsideError, Training, TrainingStatus
from epp_predictor import codec
from epp_predictor.codec import BadSnapshot
from epp_predictor.history import History
from epp_predictor.predictor import Decision, Prediction, Predictor

_AWAITED_S: Final = 900.0
"""How long an endpoint of a saved model may take to come back before its number is free."""
_FIRST_OUTPUT_TOKENS: Final = 128.0
_WEIGHT: Final = 0.02  # of the newest answer's length in the mean


class Learner:
    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.also: Callable[[Floats], object] | None = None
        """Is given every sample, too."""
        self._log: logging.Logger = handle.log
        self._predictor = Predictor(on_sample=self._send)
        self.history = History()
        """The newest observations."""
        self._training: Training | None = None
        self._numbers: NDArray[np.intp] = np.zeros(16, dtype=np.intp)
        self._known: set[Endpoint] = set()
        self._awaited: set[str] = set()
        self._awaited_until_s = math.inf
        self._output_tokens = _FIRST_OUTPUT_TOKENS
        self.problem = ""
        """Why nothing is trained here; empty when something is."""

    # --- predicting ----------------------------------------------------------------------------------------------------------

    @property
    def is_trained(self) -> bool:
        """Whether anything can be predicted."""
        return self._predictor.is_trained

    def predict(self, features: Floats, rows: NDArray[np.intp]) -> Prediction:
        """For the endpoints in these rows of the fleet, features in the same order, as `Rows` makes them."""
        return self._predictor.predict(features, self._numbers.take(rows), are_clean=True)

    def calibrate(self, said_ms: Floats, features: Floats, rows: NDArray[np.intp]) -> Prediction:
        """As `predict`, of what a model elsewhere says: TTFT and TPOT in ms, a column for each of the rows."""
        return self._predictor.calibrate(said_ms, features, self._numbers[rows])

    def expected_output_tokens(self, most: int | None, choices: int) -> float:
        """Of an answer each of whose choices may have `most` tokens (None: the client did not say); a whole number."""
        expected = float(round(self._output_tokens))
        return choices * (expected if most is None else float(min(expected, most)))

    # --- learning ------------------------------------------------------------------------------------------------------------

    def observe(
        self,
        decision: Decision,
        endpoint: Endpoint,
        *,
        ttft_ms: float | None = None,
        tpot_ms: float | None = None,
        is_censored: bool = False,
    ) -> None:
        """What happened after `decision`; with `is_censored` it would have taken at least so long."""
        if not self._predictor.observe(decision, ttft_ms=ttft_ms, tpot_ms=tpot_ms, is_censored=is_censored):
            return
        for target, ms in (("ttft", ttft_ms), ("tpot", tpot_ms)):
            if ms is not None:
                self.history.add(
                    decision, target, ms, endpoint=endpoint.name, time_s=time.time(), is_censored=is_censored
                )

    def answered(self, tokens: float) -> None:
        """Each choice of a whole answer had so many tokens."""
        self._output_tokens += _WEIGHT * (tokens - self._output_tokens)

    def _send(self, sample: Floats) -> None:
        if self.also is not None:
            self.also(sample)
        if self._training is not None:
            self._training.send(sample)

    # --- training ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to train, where the outside can; `problem` says why not. Again: nothing happens."""
        if self._training is not None:
            return
        try:
            self._training = self._handle.outside.train(self.saved())
        except OutsideError as error:
            self.problem = str(error)
            kept = "the saved model is used as it is" if self.is_trained else "nothing is predicted"
            self._log.warning("plugin %s: latencies are not learnt, %s: %s", self._handle.name, kept, error)
            return
        self.problem = ""
        if not self.is_trained:
            self._log.info(
                "plugin %s: untrained; nothing is predicted until enough requests have ended", self._handle.name
            )

    def poll(self) -> bool:
        """Take up what has been trained; whether there was anything. Call it once a second or so."""
        self._forget_awaited()
        data = None if self._training is None else self._training.poll()
        if data is None:
            return False
        try:
            snapshot = codec.decode(data)
        except BadSnapshot as error:
            self._log.warning("plugin %s: a trained model cannot be used: %s", self._handle.name, error)
            return False
        if not self.is_trained:
            self._log.info("plugin %s: trained; latencies are predicted from now on", self._handle.name)
        self._predictor.publish(snapshot)
        return True

    def close(self) -> None:
        """End the training. Predictions go on."""
        if self._training is not None:
            training, self._training = self._training, None
            training.close()

    # --- saved models --------------------------------------------------------------------------------------------------------

    def saved(self) -> bytes:
        """What is in use, calibrations as of now; empty when untrained."""
        snapshot = self._predictor.snapshot()
        return b"" if snapshot is None else codec.encode(snapshot)

    def restore(self, data: bytes | memoryview) -> None:
        """Go on with what `saved` gave an earlier process. Before any endpoint is known. Raises BadSnapshot."""
        if not len(data):
            return
        snapshot = codec.decode(data)
        self._predictor.restore(snapshot)
        self._awaited = set(snapshot.endpoints)
        self._awaited_until_s = self._handle.clock() + _AWAITED_S

    def _forget_awaited(self) -> None:
        if self._awaited and self._handle.clock() >= self._awaited_until_s:
            for name in self._awaited:
                self._predictor.forget(name)
            self._awaited.clear()

    # --- endpoints -----------------------------------------------------------------------------------------------------------

    def fit(self, capacity: int) -> None:
        """Have a number for each of the fleet's rows."""
        missing = capacity - len(self._numbers)
        if missing > 0:
            self._numbers = np.append(self._numbers, np.zeros(missing, dtype=np.intp))

    def endpoint_added(self, endpoint: Endpoint) -> None:
        """Again: nothing happens."""
        if endpoint not in self._known:
            self._known.add(endpoint)
            self._awaited.discard(endpoint.host_port)
            self.fit(endpoint.row + 1)
            self._numbers[endpoint.row] = self._predictor.endpoint(endpoint.host_port)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Again: nothing happens."""
        if endpoint in self._known:
            self._known.discard(endpoint)
            # An address may be listed twice, or be another endpoint's already.
            if not any(other.host_port == endpoint.host_port for other in self._known):
                self._predictor.forget(endpoint.host_port)

    # --- telling how it goes -------------------------------------------------------------------------------------------------

    @property
    def training(self) -> TrainingStatus | None:
        """None: nothing is trained here."""
        return None if self._training is None else self._training.status

    @property
    def predictor(self) -> Predictor:
        """For its status."""
        return self._predictor
