"""Reading HTTP responses, in any split."""

from __future__ import annotations

import gzip

import pytest

from epp.data.http_response import HttpError, HttpResponse, ResponseReader

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-A: b\r\nX-C: d\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
SPACED = b"HTTP/1.1 200\r\ncontent-length:5\r\nTransfer-encoding:\t chunked \r\n\r\n5\r\nhello\r\n000\r\n\r\n"


def feed(*pieces: bytes, limit: int = 100) -> HttpResponse | None:
    reader = ResponseReader(max_body_bytes=limit)
    answers = [reader.feed(piece) for piece in pieces]
    assert not any(answers[:-1])
    return answers[-1]


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, TRAILERS, INTERIM, SPACED])
def test_a_response_is_read_at_once_and_byte_by_byte(data: bytes) -> None:
    expected = HttpResponse(200, b"hello", reusable=True)

    assert feed(data) == expected
    assert feed(*(data[i : i + 1] for i in range(len(data)))) == expected


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, TRAILERS])
def test_a_response_is_read_in_any_two_pieces(data: bytes) -> None:
    for i in range(1, len(data)):
        assert feed(data[:i], data[i:]) == HttpResponse(200, b"hello", reusable=True)


def test_one_response_follows_another() -> None:
    reader = ResponseReader(max_body_bytes=100)

    answers = [reader.feed(data) for data in (CHUNKED, LENGTH, CHUNKED)]

    assert all(answer == HttpResponse(200, b"hello", reusable=True) for answer in answers)


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK\r\nConnection: Close", b"HTTP/1.0 200 OK"])
def test_a_connection_that_will_close_is_not_reusable(line: bytes) -> None:
    assert feed(line + b"\r\nContent-Length: 1\r\n\r\nx") == HttpResponse(200, b"x", reusable=False)


def test_without_a_length_the_body_ends_with_the_connection() -> None:
    reader = ResponseReader(max_body_bytes=100)
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhe")
    reader.feed(b"llo")

    assert reader.end() == HttpResponse(200, b"hello", reusable=False)


def test_a_status_without_a_body() -> None:
    assert feed(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n") == HttpResponse(304, b"", reusable=True)


@pytest.mark.parametrize("data", [LENGTH[:-1], CHUNKED[:-1], LENGTH[:10]])
def test_a_connection_that_ends_within_a_response_is_an_error(data: bytes) -> None:
    reader = ResponseReader(max_body_bytes=100)
    reader.feed(data)

    with pytest.raises(HttpError, match="ended within"):
        reader.end()


def test_a_connection_that_ends_between_responses_is_none() -> None:
    reader = ResponseReader(max_body_bytes=100)
    reader.feed(LENGTH)

    assert reader.end() is None
    assert not reader.began


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE",
        b"\x16\x03\x01",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        LENGTH + b"x",
        CHUNKED + b"x",
    ],
)
def test_malformed_and_too_large_responses_are_errors(data: bytes) -> None:
    with pytest.raises(HttpError):
        feed(data)


def gzipped(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_gzip_is_understood_although_nobody_asked_for_it() -> None:
    assert feed(gzipped(gzip.compress(b"hello"))) == HttpResponse(200, b"hello", reusable=True)


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip",
        gzip.compress(b"hello")[:-4],
        gzip.compress(b"x" * 1000),
        gzip.compress(b"hel") + gzip.compress(b"lo"),  # half a page would be taken for a whole one
    ],
)
def test_bad_and_too_large_gzip_content_is_an_error(body: bytes) -> None:
    with pytest.raises(HttpError):
        feed(gzipped(body))
