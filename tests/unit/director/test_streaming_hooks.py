"""Who is told of which piece of a response."""

from __future__ import annotations

from epp.api import Request, Response, ResponseStreaming
from epp.extproc.exchange import BodyMode
from tests.support.service import make_director
from tests.unit.director.test_body_times import EVENTS, answered

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: every-piece}, {type: first-piece}, {type: queue-scorer}]
"""


class EveryPiece(ResponseStreaming):
    type = "every-piece"
    heard = 0

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        self.heard += 1


class FirstPiece(EveryPiece):
    type = "first-piece"
    first_piece_only = True


def test_a_plugin_that_wants_the_first_piece_only_hears_of_no_other() -> None:
    director = make_director("10.0.0.1:8000", config=CONFIG, plugins=(EveryPiece, FirstPiece))

    answered(director, "text/event-stream", EVENTS, mode=BodyMode.FULL_DUPLEX_STREAMED)

    heard = {p.type: p.heard for p in director.pipeline.plugins.values() if isinstance(p, EveryPiece)}
    assert heard == {"every-piece": 3, "first-piece": 1}
