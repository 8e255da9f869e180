"""Any bytes as the messages of one conversation: they are understood or refused as malformed, and nothing stays counted.

An input is a row of messages, each preceded by its length in two bytes; the last may be as long as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import MalformedMessage
from tests.fuzz.epp_in_process import World


def target() -> Callable[[bytes], None]:
    """The function that takes inputs, and the world it needs."""
    return partial(one_input, World())


def one_input(world: World, data: bytes) -> None:
    world.begin()
    world.run(_converse(world, data))
    world.check_idle()


async def _converse(world: World, data: bytes) -> None:
    session = world.service.session(lambda: None)
    try:
        while data:
            length = int.from_bytes(data[:2], "big")
            session.receive(data[2 : 2 + length])
            data = data[2 + length :]
            for reply in session.take():
                assert pb.ProcessingResponse.FromString(reply).WhichOneof("response") is not None
        session.half_closed()
    except MalformedMessage:
        pass
    finally:
        session.close("OK")
    await world.turn()
