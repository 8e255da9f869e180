"""Where the API server is and who we are there: a kubeconfig file, or what a Pod finds inside a cluster.

Files are read by the official client. It is imported when it is needed: that takes a third of a second, and not every picker
runs beside Kubernetes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import yaml

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

SERVICE_ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST: Final = "KUBERNETES_SERVICE_HOST"
_BEARER: Final = "BearerToken"  # the client's name for the header


class CredentialsError(Exception):
    """There is no way to an API server, or what describes it cannot be used. The text says which file and why."""


class Source(msgspec.Struct, frozen=True):
    """What to read. Without `kubeconfig`: what KUBECONFIG names, else the service account, else ~/.kube/config."""

    kubeconfig: str = ""
    context: str = ""
    environ: Mapping[str, str] = os.environ
    service_account_dir: Path = SERVICE_ACCOUNT_DIR


async def load(source: Source) -> Configuration:
    """Read everything again: a token, a certificate and the address may be others than before. Raises CredentialsError."""
    from kubernetes.aio.client import Configuration

    configuration = Configuration()
    # What Python 3.13 checks beyond RFC 5280's chain and Go does not: authorities of many clusters lack the extensions for it.
    configuration.disable_strict_ssl_verification = True
    files = _kubeconfig_files(source)
    if files or source.context:
        await _load_kubeconfig(configuration, files, source.context)
    else:
        _load_service_account(configuration, source)
    # Chunks of a watch are split here; a large buffer would only make the event loop's pauses longer.
    configuration.client_session_kwargs = {"read_bufsize": 1 << 16}
    return configuration


def _kubeconfig_files(source: Source) -> str:
    """Paths as KUBECONFIG has them; "" for a service account."""
    if source.kubeconfig:
        return source.kubeconfig
    named = source.environ.get("KUBECONFIG", "")
    home = Path(source.environ.get("HOME", "~")).expanduser() / ".kube" / "config"
    inside = source.environ.get(_HOST) and source.service_account_dir.is_dir()
    if named or inside or not home.is_file():
        return named
    return str(home)


async def _load_kubeconfig(configuration: Configuration, files: str, context: str) -> None:
    from kubernetes.aio import config

    if not _any_file(files):
        raise CredentialsError(f"kubeconfig {files or '~/.kube/config'}: there is no such file")
    try:
        loader = await config.load_kube_config(
            files, context=context or None, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, yaml.YAMLError) as error:
        raise CredentialsError(f"kubeconfig {files}: {error}") from error
    # The client reads a document that a person has written, and lets through whatever it stumbles over.
    except Exception as error:
        raise CredentialsError(f"kubeconfig {files}: this is no kubeconfig: {type(error).__name__}: {error}") from error
    user = loader._user
    # The client logs why a helper has failed and goes on as nobody, whom a server tells 403 and not 401.
    if user is not None and "exec" in user and not (configuration.api_key or configuration.cert_file):
        raise CredentialsError(f"kubeconfig {files}: the program that its user's exec names gave no credentials")


def _any_file(paths: str) -> bool:
    return any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path)


def _load_service_account(configuration: Configuration, source: Source) -> None:
    from kubernetes.aio import config
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

    token, authority = source.service_account_dir / "token", source.service_account_dir / "ca.crt"
    if not source.environ.get(_HOST):
        raise CredentialsError(
            f"no API server is known: {_HOST} is not set (this is no Pod), and there is no kubeconfig;"
            " give --kubeconfig FILE"
        )
    try:
        # Its own refreshing goes by the wall clock, which may jump; see `read_token`.
        loader = InClusterConfigLoader(str(token), str(authority), try_refresh_token=False, environ=source.environ)
        loader.load_and_set(configuration)
    except (config.ConfigException, OSError) as error:
        raise CredentialsError(f"service account in {source.service_account_dir}: {error}") from error

    def read_token(configuration: Configuration) -> None:
        # Before every request: a token lasts an hour or less and the kubelet replaces it in time. Requests are few.
        try:
            configuration.api_key[_BEARER] = "Bearer " + token.read_text().strip()
        except OSError:
            return  # the directory is just being replaced: the one before is valid still

    configuration.refresh_api_key_hook = read_token
