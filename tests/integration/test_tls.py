"""Handshakes over loopback with both users of a certificate: an asyncio server and grpcio's."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import grpc
import pytest

from epp.server.tls import Certificate, KeyPair, grpc_credentials, self_signed, ssl_context


def client(*, trust: KeyPair | None = None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that speaks HTTP/2; without `trust` it takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = newest
    context.set_alpn_protocols(["h2", "http/1.1"])
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trust.chain.decode())
    return context


async def handshake(port: int, context: ssl.SSLContext) -> tuple[bytes, str | None]:
    """The certificate (DER) and the protocol that the server at `port` offers."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    answer = tls.getpeercert(binary_form=True) or b"", tls.selected_alpn_protocol()
    writer.transport.abort()
    return answer


def der(pair: KeyPair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.chain.decode())


def write(directory: Path, pair: KeyPair) -> None:
    (directory / "tls.crt").write_bytes(pair.chain)
    (directory / "tls.key").write_bytes(pair.key)


async def start(context: ssl.SSLContext) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def test_a_client_that_trusts_the_certificate_gets_http2() -> None:
    certificate = Certificate()
    server, port = await start(ssl_context(certificate))

    async with server:
        served, protocol = await handshake(port, client(trust=certificate.pair))

    assert (served, protocol) == (der(certificate.pair), "h2")


async def test_a_client_of_an_older_version_is_refused() -> None:
    server, port = await start(ssl_context(Certificate(), min_version="VersionTLS13"))

    async with server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(port, client(newest=ssl.TLSVersion.TLSv1_2))


async def test_a_reloaded_certificate_is_served_at_the_next_handshake(tmp_path: Path) -> None:
    old, new = self_signed(), self_signed()
    write(tmp_path, old)
    certificate = Certificate(tmp_path)
    server, port = await start(ssl_context(certificate))

    async with server:
        before, _ = await handshake(port, client())
        write(tmp_path, new)
        certificate.refresh()
        after, _ = await handshake(port, client())

    assert (before, after) == (der(old), der(new))


async def test_grpcio_serves_a_reloaded_certificate_at_the_next_handshake(tmp_path: Path) -> None:
    old, new = self_signed(), self_signed()
    write(tmp_path, old)
    certificate = Certificate(tmp_path)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc_credentials(certificate))
    await server.start()

    try:
        before, protocol = await handshake(port, client(trust=old))
        write(tmp_path, new)
        certificate.refresh()
        after, _ = await handshake(port, client(trust=new))
    finally:
        await server.stop(0)

    assert (before, after, protocol) == (der(old), der(new), "h2")


async def test_following_notices_a_change_by_itself(tmp_path: Path) -> None:
    write(tmp_path, self_signed())
    certificate = Certificate(tmp_path)
    changed: asyncio.Future[KeyPair] = asyncio.get_running_loop().create_future()
    certificate.add_listener(changed.set_result)
    task = asyncio.create_task(certificate.follow(interval_s=0.01))
    new = self_signed()

    write(tmp_path, new)
    heard = await asyncio.wait_for(changed, timeout=60)
    task.cancel()

    assert heard == new
