"""One decision of a queue-scorer, noted in a ring."""

from __future__ import annotations

from epp.api import Fleet, Request, SchedulingResult
from epp.observability.explain import Decisions
from epp.scheduling.observer import Unobserved
from epp.scheduling.profile import Profile
from epp_plugins.pickers.max_score_picker import MaxScorePicker
from epp_plugins.scorers.queue_scorer import QueueScorer
from tests.support.plugins import make_plugin
from tests.support.recording import make_request


def decide(decisions: Decisions, fleet: Fleet, request: Request | None = None) -> Request:
    request = request or make_request()
    scorer = make_plugin(QueueScorer, fleet)
    profile = Profile("p", scorers=[(scorer, 1.0)], picker=make_plugin(MaxScorePicker), observer=Unobserved())
    trace = decisions.trace()
    request.result = SchedulingResult({"p": profile.run(request, fleet.candidates(), trace=trace)}, "p")
    decisions.scheduled(request, "hash", fleet.candidates(), trace, request.result, 1e-5)
    return request
