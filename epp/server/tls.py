"""Certificates for the ports that speak TLS: from a directory, or made for this process; followed while it runs.

The two users are `ssl.SSLContext` (the asyncio transport) and grpcio. A pair of files is taken only when certificate and
key belong together, so a directory that is being written, or was written wrongly, leaves the certificate in force.

The self-signed certificate has an ECDSA P-256 key where the Go EPP's has RSA-4096: made in 0.2 ms instead of 0.1 to 1 s,
and about as strong. It only encrypts; whoever verifies it must be given a real one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from epp.api import ConfigError

_log: Final = logging.getLogger(__name__)

CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
VALIDITY: Final = dt.timedelta(days=3650)

_VERSIONS: Final = {
    "VersionTLS10": ssl.TLSVersion.TLSv1,
    "VersionTLS11": ssl.TLSVersion.TLSv1_1,
    "VersionTLS12": ssl.TLSVersion.TLSv1_2,
    "VersionTLS13": ssl.TLSVersion.TLSv1_3,
}
# IANA name (as in Go's crypto/tls) to OpenSSL's.
_SUITES: Final = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
# Those of TLS 1.3 are always on; naming them changes nothing, as in Go.
_SUITES_13: Final = frozenset(("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"))


class KeyPair(msgspec.Struct, frozen=True):
    """A certificate chain and its private key, PEM."""

    chain: bytes
    key: bytes


def self_signed() -> KeyPair:
    """A certificate for `localhost`, valid for ten years, whose key exists in this process only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Inference Ext")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # clocks of the two sides differ
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(
        chain=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def load_pair(directory: Path) -> KeyPair:
    """The pair in `directory`. Raises ConfigError when a file is missing or unreadable, or the two do not match."""
    try:
        pair = KeyPair((directory / CERTIFICATE_FILE).read_bytes(), (directory / KEY_FILE).read_bytes())
    except OSError as error:
        raise ConfigError(f"certificate: cannot read {error.filename}: {error.strerror}") from error
    try:
        _serve(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    except ssl.SSLError as error:
        raise ConfigError(
            f"certificate: {CERTIFICATE_FILE} and {KEY_FILE} in {directory} are not a PEM certificate and its key: "
            f"{error.reason or error}"
        ) from error
    return pair


class Certificate:
    """The pair in force. `directory` None: a self-signed one. Raises ConfigError when the directory holds none."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._seen = self._fingerprint()
        self.pair = self_signed() if directory is None else load_pair(directory)
        self._listeners: list[Callable[[KeyPair], None]] = []

    def add_listener(self, listener: Callable[[KeyPair], None]) -> None:
        """`listener` is called with each pair that comes into force from here on."""
        self._listeners.append(listener)

    def refresh(self) -> bool:
        """Look at the files; True when another pair came into force. A pair that is no good is logged, once."""
        directory = self._directory
        if directory is None:
            return False
        seen = self._fingerprint()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            pair = load_pair(directory)
        except ConfigError as error:
            _log.error("certificate not reloaded, the old one stays", extra={"fields": {"problem": str(error)}})
            return False
        if pair == self.pair:
            return False
        self.pair = pair
        for listener in self._listeners:
            listener(pair)
        _log.info("certificate reloaded", extra={"fields": {"directory": str(directory)}})
        return True

    async def follow(self, *, interval_s: float = 1.0) -> None:
        """Look at the files every `interval_s` until cancelled.

        Kubernetes swaps a symbolic link several levels up, which file watches miss; two `stat` calls do not.
        """
        while True:
            await asyncio.sleep(interval_s)
            self.refresh()

    def _fingerprint(self) -> tuple[tuple[int, int, int] | None, ...]:
        if self._directory is None:
            return ()
        return tuple(_identity(self._directory / name) for name in (CERTIFICATE_FILE, KEY_FILE))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def ssl_context(
    certificate: Certificate,
    *,
    min_version: str = "",
    cipher_suites: tuple[str, ...] = (),
    protocols: tuple[str, ...] = ("h2",),
) -> ssl.SSLContext:
    """A server's context that serves `certificate`, whichever is in force at a handshake.

    `protocols` are for ALPN: `h2`, or `http/1.1` for the metrics port. `min_version` is `VersionTLS12` (the default) or
    another of Go's names, `cipher_suites` are IANA names and concern TLS 1.2 and older. Raises ConfigError for names that
    are unknown or suites that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _version(min_version)
    context.set_alpn_protocols(list(protocols))
    suites = _openssl_names(cipher_suites)
    if suites:
        try:
            context.set_ciphers(":".join(suites))
        except ssl.SSLError as error:
            raise ConfigError(f"--tls-cipher-suites: none of {', '.join(cipher_suites)} is available here") from error
    _serve(context, certificate.pair)
    certificate.add_listener(lambda pair: _serve(context, pair))
    return context


def grpc_credentials(
    certificate: Certificate, *, min_version: str = "", cipher_suites: tuple[str, ...] = ()
) -> grpc.ServerCredentials:
    """grpcio's credentials that serve `certificate`, whichever is in force at a handshake.

    grpcio speaks TLS 1.2 and 1.3 with its own suites and offers no way to change that for one server, so anything
    stricter raises ConfigError: it must not be believed to be in force.
    """
    if _version(min_version) > ssl.TLSVersion.TLSv1_2:
        raise ConfigError(
            f"--tls-min-version: {min_version} is not possible with --transport grpcio, which allows TLS 1.2"
        )
    if _openssl_names(cipher_suites):
        raise ConfigError("--tls-cipher-suites: not possible with --transport grpcio, which has its own")
    served = certificate.pair

    # Called by grpcio's thread at each handshake; None: as before.
    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        pair = certificate.pair
        if pair is served:
            return None
        served = pair
        return _grpc_configuration(pair)

    initial = _grpc_configuration(served)
    # None is allowed by grpc.dynamic_ssl_server_credentials' documentation, not by its stubs.
    return grpc.dynamic_ssl_server_credentials(initial, fetch, False)  # type: ignore[arg-type]


def _grpc_configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


def _version(name: str) -> ssl.TLSVersion:
    if not name:
        return ssl.TLSVersion.TLSv1_2
    version = _VERSIONS.get(name)
    if version is None:
        raise ConfigError(f"--tls-min-version: {name!r} is not one of {', '.join(_VERSIONS)}")
    return version


def _openssl_names(suites: tuple[str, ...]) -> list[str]:
    unknown = [name for name in suites if name not in _SUITES and name not in _SUITES_13]
    if unknown:
        raise ConfigError(
            f"--tls-cipher-suites: {unknown[0]!r} is unknown; expected names such as {next(reversed(_SUITES))}"
        )
    return list(dict.fromkeys(_SUITES[name] for name in suites if name in _SUITES))


def _serve(context: ssl.SSLContext, pair: KeyPair) -> None:
    # OpenSSL reads files only, so it gets one in memory: keys stay off the disk, and what is loaded is what was verified.
    descriptor = os.memfd_create("epp-tls")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pair.key.rstrip() + b"\n" + pair.chain)
        # Without a password of ours, OpenSSL would ask the terminal for an encrypted key's.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)
