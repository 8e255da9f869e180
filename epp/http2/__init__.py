"""HTTP/2 and gRPC for a server, without I/O: bytes in, calls on handlers; calls on streams, bytes out.

Start reading at `connection`.
"""

from epp.http2.connection import Connection
from epp.http2.errors import ConnectionFailure, ErrorCode, Http2Error, StreamFailure
from epp.http2.grpc import Metadata, Status, status_of_reset
from epp.http2.grpc_stream import Application, GrpcStream, StreamHandler
from epp.http2.limits import Limits
from epp.http2.requests import Facts, RequestHead

__all__ = [
    "Application",
    "Connection",
    "ConnectionFailure",
    "ErrorCode",
    "Facts",
    "GrpcStream",
    "Http2Error",
    "Limits",
    "Metadata",
    "RequestHead",
    "Status",
    "StreamFailure",
    "StreamHandler",
    "status_of_reset",
]
