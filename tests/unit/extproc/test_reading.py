"""Messages are read with their headers and metadata left as bytes; what comes of them is what the stubs say."""

import pytest

from epp.extproc.gen import ext_proc_pb2 as pb
from epp.extproc.reading import read, read_headers
from epp.server.session import ExtProc, MalformedMessage, Session
from tests.support.conversations import all_conversations
from tests.support.extproc import POST, request_headers
from tests.support.service import make_director


def test_recorded_messages_read_as_the_stubs_read_them() -> None:
    compared = 0
    for conversation in all_conversations():
        for data in conversation.chunks:
            ours, theirs = read(data), pb.ProcessingRequest.FromString(data)
            kind = ours.WhichOneof("request")
            assert kind == theirs.WhichOneof("request")
            assert ours.metadata_context == theirs.metadata_context.SerializeToString()
            if kind in ("request_headers", "response_headers"):
                expected = {h.key: h.raw_value.decode() for h in getattr(theirs, kind).headers.headers}
                assert read_headers(getattr(ours, kind).headers) == expected
                compared += 1

    assert compared > 40


def test_names_are_in_lower_case_and_values_keep_bytes_that_are_no_text() -> None:
    message = request_headers({":method": "POST"})
    message.request_headers.headers.headers.add(key="X-Odd", raw_value=b"caf\xe9")
    message.request_headers.headers.headers.add(key="x-text", value="said as text")

    found = read_headers(read(message.SerializeToString()).request_headers.headers)

    assert found == {":method": "POST", "x-odd": "caf\udce9", "x-text": "said as text"}


@pytest.mark.parametrize("field", [b"\x0a\x05abc", b"\x0a\x01\xff"], ids=["cut off", "no text"])
def test_a_header_that_is_none_makes_the_message_malformed(field: bytes) -> None:
    message = request_headers(POST).SerializeToString()
    # One more HttpHeaders with one more header in it: members of messages that come twice are merged.
    header_map = b"\x0a%c%b" % (len(field), field)
    headers = b"\x0a%c%b" % (len(header_map), header_map)
    session = Session(ExtProc(make_director("127.0.0.1:8000"), max_body_bytes=1 << 20), lambda: None)

    with pytest.raises(MalformedMessage):
        session.receive(message + b"\x12%c%b" % (len(headers), headers))

    session.close("InvalidArgument")
    assert session.finished
