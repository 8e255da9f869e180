"""destination-endpoint-served-verifier: tells the client which endpoint the proxy says it used. For conformance tests."""

from __future__ import annotations

from epp.api import Request, Response, ResponseReceived, headers


class DestinationEndpointServedVerifier(ResponseReceived):
    """Sets x-conformance-test-served-endpoint to the endpoint in the response's `envoy.lb` metadata, or to what is missing.

    `served_endpoint` is None when the proxy sent no such metadata at all, and empty when they lack the key.
    """

    type = "destination-endpoint-served-verifier"

    def response_received(self, request: Request, response: Response) -> None:
        served = response.served_endpoint
        if served is None:
            served = "fail: missing envoy lb metadata"
        elif not served:
            served = "fail: missing destination endpoint served metadata"
        response.set_headers[headers.CONFORMANCE_SERVED_ENDPOINT] = served
