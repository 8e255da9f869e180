"""A fake model server: OpenAI endpoints, vLLM's metrics page, and an engine that batches, caches and queues like one.

It takes no model and no GPU; time is all it spends. Used by tests, by the demo, and as `epp sim`. It knows nothing of the
Endpoint Picker and imports nothing of it.

    tokens    text to tokens and hashes, and back            schema    request bodies
    blocks    KV blocks and the prefix cache                 shapes    answers as vLLM writes them
    sequence  one prompt on its way                          answers   inference endpoints
    engine    steps: scheduling, batching, preemption        sending   writing to the client, with faults
    stats     what is counted                                admin     health, metrics, /sim
    runner    gives steps their time on the event loop       core      one server without sockets
    page      the metrics page                               server    SimServer
    faults    what can go wrong on request                   cli       the command
"""

from epp.sim.config import SimConfig, StepCost
from epp.sim.core import ReceivedRequest
from epp.sim.faults import FaultChanges, Faults
from epp.sim.server import SimServer

__all__ = ["FaultChanges", "Faults", "ReceivedRequest", "SimConfig", "SimServer", "StepCost"]
