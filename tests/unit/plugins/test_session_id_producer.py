from __future__ import annotations

import pytest

from epp.api import ConfigError, Fleet
from epp_plugins.producers.session_id_producer import SessionIdProducer
from tests.support.plugins import make_plugin
from tests.support.scheduling import make_request

KEY = "SessionID/session-id-producer"


@pytest.mark.parametrize(
    ("parameters", "headers", "session"),
    [
        ({}, {"x-session-id": "a"}, "a"),
        ({"headerName": "X-Mine"}, {"x-mine": "b", "x-session-id": "a"}, "b"),
        ({"cookieName": "sid"}, {"cookie": "other=1; sid=c"}, "c"),
        ({"cookieName": "sid"}, {"cookie": 'sid="c"'}, "c"),
        ({"cookieName": "sid"}, {"cookie": "xsid=1; sid", "x-session-id": "a"}, None),
        ({"cookieName": "sid"}, {}, None),
        ({}, {"x-session-id": ""}, None),
        ({}, {}, None),
    ],
)
def test_the_session_is_the_value_of_the_header_or_the_cookie(
    parameters: dict[str, str], headers: dict[str, str], session: str | None
) -> None:
    request = make_request(headers=headers)

    make_plugin(SessionIdProducer, **parameters).produce(request, Fleet().candidates())

    assert request.data.get(KEY) == session
    assert (KEY in request.data) == (session is not None)


def test_only_one_of_both_can_be_named() -> None:
    with pytest.raises(ConfigError, match="either a header or a cookie"):
        make_plugin(SessionIdProducer, headerName="a", cookieName="b")
