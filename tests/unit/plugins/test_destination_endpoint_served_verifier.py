from __future__ import annotations

import pytest

from epp.api import Response
from epp_plugins.hooks.destination_endpoint_served_verifier import DestinationEndpointServedVerifier
from tests.support.plugins import make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("served", "header"),
    [
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        (None, "fail: missing envoy lb metadata"),
        ("", "fail: missing destination endpoint served metadata"),
    ],
)
def test_the_client_is_told_who_served_or_what_is_missing(served: str | None, header: str) -> None:
    response = Response()
    response.served_endpoint = served
    make_plugin(DestinationEndpointServedVerifier).response_received(make_request(), response)

    assert response.set_headers == {"x-conformance-test-served-endpoint": header}
