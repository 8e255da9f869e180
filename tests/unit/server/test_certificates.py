from __future__ import annotations

import datetime as dt
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from epp.api import ConfigError
from epp.server.tls import Certificate, KeyPair, grpc_credentials, load_pair, self_signed, ssl_context
from tests.support.files import replace


def write(directory: Path, pair: KeyPair) -> Path:
    """As other files: one of the same size may be written in place within the resolution of the file system's clock."""
    directory.mkdir(exist_ok=True)
    replace(directory / "tls.crt", pair.chain)
    replace(directory / "tls.key", pair.key)
    return directory


def test_the_self_signed_certificate_is_for_localhost_and_ten_years() -> None:
    certificate = x509.load_pem_x509_certificate(self_signed().chain)

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert dt.timedelta(days=3649) < left <= dt.timedelta(days=3650)


def test_no_two_processes_share_a_key() -> None:
    assert self_signed().key != self_signed().key


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, self_signed())
    (tmp_path / "tls.key").unlink()

    with pytest.raises(ConfigError, match=r"cannot read .*tls\.key"):
        Certificate(tmp_path)


@pytest.mark.parametrize(("chain", "key"), [(b"nonsense", None), (None, b"nonsense"), (b"", b"")])
def test_files_that_are_no_pair_are_refused(tmp_path: Path, chain: bytes | None, key: bytes | None) -> None:
    good = self_signed()
    write(tmp_path, KeyPair(good.chain if chain is None else chain, good.key if key is None else key))

    with pytest.raises(ConfigError, match="not a PEM certificate and its key"):
        load_pair(tmp_path)


def test_a_certificate_with_somebody_elses_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path, KeyPair(self_signed().chain, self_signed().key))

    with pytest.raises(ConfigError):
        load_pair(tmp_path)


def test_a_changed_pair_comes_into_force_and_listeners_hear_of_it(tmp_path: Path) -> None:
    certificate = Certificate(write(tmp_path, self_signed()))
    heard: list[KeyPair] = []
    certificate.add_listener(heard.append)
    other = self_signed()

    write(tmp_path, other)

    assert (certificate.refresh(), certificate.refresh()) == (True, False)
    assert heard == [other]


def test_a_broken_pair_leaves_the_old_one_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(write(tmp_path, self_signed()))
    before = certificate.pair
    replace(tmp_path / "tls.crt", self_signed().chain)

    assert (certificate.refresh(), certificate.refresh()) == (False, False)
    assert certificate.pair is before
    assert [r.getMessage() for r in caplog.records] == ["certificate not reloaded, the old one stays"]


def test_a_pair_written_file_by_file_comes_into_force_when_it_is_whole(tmp_path: Path) -> None:
    certificate = Certificate(write(tmp_path, self_signed()))
    other = self_signed()

    replace(tmp_path / "tls.crt", other.chain)
    half = certificate.refresh()
    replace(tmp_path / "tls.key", other.key)
    whole = certificate.refresh()

    assert (half, whole, certificate.pair) == (False, True, other)


def test_a_swapped_symbolic_link_is_seen_as_kubernetes_does_it(tmp_path: Path) -> None:
    first, second = self_signed(), self_signed()
    write(tmp_path / "v1", first)
    write(tmp_path / "v2", second)
    served = tmp_path / "served"
    served.mkdir()
    (served / "..data").symlink_to(tmp_path / "v1")
    for name in ("tls.crt", "tls.key"):
        (served / name).symlink_to(Path("..data") / name)
    certificate = Certificate(served)

    (served / "next").symlink_to(tmp_path / "v2")
    os.replace(served / "next", served / "..data")

    assert certificate.refresh() is True
    assert certificate.pair == second


def test_the_oldest_version_is_1_2_unless_asked_otherwise() -> None:
    assert ssl_context(Certificate()).minimum_version is ssl.TLSVersion.TLSv1_2
    assert ssl_context(Certificate(), min_version="VersionTLS13").minimum_version is ssl.TLSVersion.TLSv1_3


def test_suites_go_by_their_iana_names() -> None:
    asked = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256")

    context = ssl_context(Certificate(), cipher_suites=asked)

    old = [c["name"] for c in context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert old == ["ECDHE-ECDSA-AES128-GCM-SHA256"]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"min_version": "TLS1.2"}, "'TLS1.2' is not one of VersionTLS10"),
        ({"cipher_suites": ("ECDHE-RSA-AES128-SHA",)}, "is unknown; expected names such as TLS_"),
    ],
)
def test_unknown_names_are_refused(asked: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ssl_context(Certificate(), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked", [{"min_version": "VersionTLS13"}, {"cipher_suites": ("TLS_RSA_WITH_AES_128_GCM_SHA256",)}]
)
def test_grpcio_refuses_limits_that_it_cannot_keep(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--transport grpcio"):
        grpc_credentials(Certificate(), **asked)  # type: ignore[arg-type]
