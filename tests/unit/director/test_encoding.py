"""Compressed request bodies, by themselves and through the director."""

import gzip
import json

import pytest

from epp.api import Code, RequestError
from epp.director.encoding import Encodings
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import ExtProc, Session
from tests.support.extproc import POST, Replies, request_body, request_headers
from tests.support.service import make_director

READS = Encodings(read=True, max_body_bytes=1000)
REFUSES = Encodings(read=False, max_body_bytes=1000)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
@pytest.mark.parametrize("encodings", [READS, REFUSES])
def test_plain_bodies_pass(encodings: Encodings, encoding: str) -> None:
    assert encodings.decode(b"{}", encoding) == b"{}"
    assert encodings.encode(b"{}", encoding) == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
def test_gzip_is_read_and_written_again(encoding: str) -> None:
    packed = READS.encode(b'{"a": 1}', encoding)

    assert READS.decode(packed, encoding) == b'{"a": 1}'


def test_a_body_of_several_members_is_one_body() -> None:
    assert READS.decode(gzip.compress(b"ab") + gzip.compress(b"cd"), "gzip") == b"abcd"


@pytest.mark.parametrize(
    ("encodings", "body", "encoding", "code"),
    [
        (REFUSES, gzip.compress(b"{}"), "gzip", Code.UNSUPPORTED_MEDIA_TYPE),
        (READS, b"{}", "br", Code.UNSUPPORTED_MEDIA_TYPE),
        (READS, b"{}", "gzip, br", Code.UNSUPPORTED_MEDIA_TYPE),
        (READS, b"{}", "gzip", Code.BAD_REQUEST),
        (READS, gzip.compress(b"{}")[:-3], "gzip", Code.BAD_REQUEST),
        (READS, gzip.compress(b"{}") + b"rubbish", "gzip", Code.BAD_REQUEST),
        (READS, gzip.compress(b"") * 1000, "gzip", Code.BAD_REQUEST),  # time grows with their square
        (READS, gzip.compress(b"x" * 1001), "gzip", Code.PAYLOAD_TOO_LARGE),
        (READS, gzip.compress(b"x" * 600) * 2, "gzip", Code.PAYLOAD_TOO_LARGE),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_status(
    encodings: Encodings, body: bytes, encoding: str, code: Code
) -> None:
    with pytest.raises(RequestError) as caught:
        encodings.decode(body, encoding)

    assert caught.value.code is code


def test_a_body_that_unpacks_to_the_limit_is_read() -> None:
    assert len(READS.decode(gzip.compress(b"x" * 1000), "gzip")) == 1000


def converse(body: bytes, *, read_gzip: bool = True, **fields: str) -> Replies:
    sent = POST | {"content-encoding": "gzip"} | {k.replace("_", "-"): v for k, v in fields.items()}
    director = make_director("127.0.0.1:8000", read_gzip=read_gzip)
    session = Session(ExtProc(director, max_body_bytes=1 << 20), lambda: None)
    session.receive(request_headers(sent).SerializeToString())
    session.receive(request_body(body, end=True).SerializeToString())
    replies = Replies(pb.ProcessingResponse.FromString(r) for r in session.take())
    session.close("OK")
    return replies


PACKED = gzip.compress(b'{"model": "m", "prompt": "hello"}')


def test_a_compressed_request_is_picked_for_and_sent_on_untouched() -> None:
    assert converse(PACKED).streamed("request_body") == PACKED


def test_a_rewritten_model_is_packed_again() -> None:
    replies = converse(PACKED, x_gateway_model_name_rewrite="other")

    assert json.loads(gzip.decompress(replies.streamed("request_body"))) == {"model": "other", "prompt": "hello"}


def test_by_the_flag_it_is_415() -> None:
    assert converse(PACKED, read_gzip=False).immediate[0] == 415


def test_bodies_that_nobody_reads_may_be_encoded_as_they_like() -> None:
    director_path = {":path": "/some/other/path"}

    assert converse(b"whatever", read_gzip=False, **director_path).streamed("request_body") == b"whatever"
