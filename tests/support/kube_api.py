"""Kubernetes objects over REST, for tests: get, create, apply, patch, delete, by apiVersion and kind.

Blocking and small on purpose: it shares no code with what is tested. Kinds are looked up in the server's own discovery pages.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import yaml

Object = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_TIMEOUT_S: Final = 30.0


class ApiError(Exception):
    """The API server refused. `status` is HTTP's, `reason` Kubernetes' word for it."""

    def __init__(self, status: int, body: Object) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', body)}")
        self.status = status
        self.reason = str(body.get("reason", ""))


class KubeApi:
    """One user's view of one API server. May be used from several threads: each has its own connection."""

    def __init__(self, host: str, port: int, *, ca: str, token: str) -> None:
        self._address = host, port
        self._tls = ssl.create_default_context(cadata=ca)
        self._token = token
        self._local = threading.local()
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    # --- objects -------------------------------------------------------------------------------------------------------

    def create(self, body: Object, *, namespace: str = "") -> Object:
        return self.request("POST", self._path(body["apiVersion"], body["kind"], namespace or _namespace(body)), body)

    def apply(self, objects: str | Object, *, namespace: str = "") -> list[Object]:
        """Server-side apply of one object or of a YAML text with several, forced, as field manager `test`."""
        several = [o for o in yaml.safe_load_all(objects) if o] if isinstance(objects, str) else [objects]
        return [self._apply(o, namespace or _namespace(o)) for o in several]

    def get(self, version: str, kind: str, name: str, *, namespace: str = "") -> Object:
        return self.request("GET", self._path(version, kind, namespace, name))

    def find(self, version: str, kind: str, name: str, *, namespace: str = "") -> Object | None:
        """The object, or None where there is none."""
        try:
            return self.get(version, kind, name, namespace=namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, version: str, kind: str, *, namespace: str = "", **query: str) -> list[Object]:
        """Without `namespace`, those of all. `query` such as labelSelector, fieldSelector."""
        items: list[Object] = self.request("GET", self._path(version, kind, namespace), query=query)["items"]
        return items

    def patch(
        self, version: str, kind: str, name: str, body: Object, *, namespace: str = "", subresource: str = ""
    ) -> Object:
        """A JSON merge patch."""
        path = self._path(version, kind, namespace, name, subresource)
        return self.request("PATCH", path, body, content_type=MERGE)

    def delete(
        self, version: str, kind: str, name: str, *, namespace: str = "", grace_s: int | None = None, uid: str = ""
    ) -> None:
        """Nothing happens where there is none. `grace_s` 0 lets a Pod vanish at once; with `uid` only that one goes."""
        body: Object = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", self._path(version, kind, namespace, name), body)
        except ApiError as error:
            if error.status != 404:
                raise

    # --- Pods ----------------------------------------------------------------------------------------------------------

    def create_pod(
        self,
        name: str,
        *,
        namespace: str,
        ip: str = "",
        ready: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Object:
        """A Pod that nobody runs; with `ip` its status says that it runs there."""
        pod = self.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})},
                "spec": {"containers": [{"name": "server", "image": "server"}]},
            },
            namespace=namespace,
        )
        return self.set_pod_status(name, namespace=namespace, ip=ip, ready=ready) if ip else pod

    def set_pod_status(
        self, name: str, *, namespace: str, ip: str, ready: bool = True, phase: str = "Running"
    ) -> Object:
        """What a kubelet would write."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
        return self.patch("v1", "Pod", name, {"status": status}, namespace=namespace, subresource="status")

    # --- tokens --------------------------------------------------------------------------------------------------------

    def service_account_token(
        self,
        account: str,
        *,
        namespace: str,
        seconds: int = 3600,
        audience: str = "",
        bound_to: Object | None = None,
    ) -> str:
        """By TokenRequest; the server gives none shorter than 600 s. A token bound to a Pod ends
        with it, but the server remembers tokens that were good for 10 s."""
        spec: Object = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        if bound_to is not None:
            metadata = bound_to["metadata"]
            spec["boundObjectRef"] = {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self.request("POST", path, body)["status"]["token"]
        return token

    # --- one request ---------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Raises ApiError for a refusal and OSError where no server answers."""
        target = f"{path}?{urlencode(query)}" if query else path
        status, text = self._exchange(
            method, target, json.dumps(body).encode() if body is not None else None, content_type
        )
        try:
            answer: Object = json.loads(text)
        except ValueError:
            answer = {"message": text.decode(errors="replace")}
        if status >= 300:
            raise ApiError(status, answer)
        return answer

    def healthy(self, page: str = "/readyz") -> bool:
        try:
            return self._exchange("GET", page, None, "")[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        """This thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _exchange(self, method: str, target: str, data: bytes | None, content_type: str) -> tuple[int, bytes]:
        if getattr(self._local, "connection", None) is not None:
            # The server may have ended it while it was idle; what it then answers is nothing, and asking again is safe.
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                return self._send(method, target, data, content_type)
        self._local.connection = http.client.HTTPSConnection(*self._address, context=self._tls, timeout=_TIMEOUT_S)
        return self._send(method, target, data, content_type)

    def _send(self, method: str, target: str, data: bytes | None, content_type: str) -> tuple[int, bytes]:
        """On this thread's connection, which is of no use any more when it raises OSError."""
        connection: http.client.HTTPSConnection = self._local.connection
        headers = {"authorization": f"Bearer {self._token}", "content-type": content_type, "accept": "application/json"}
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            self.close()
            raise
        except http.client.HTTPException as error:  # an answer that is cut short
            self.close()
            raise OSError(repr(error)) from error

    def _apply(self, body: Object, namespace: str) -> Object:
        path = self._path(body["apiVersion"], body["kind"], namespace, body["metadata"]["name"])
        return self.request("PATCH", path, body, content_type=APPLY, query={"fieldManager": "test", "force": "true"})

    def _path(self, version: str, kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
        plural, namespaced = self._resource(version, kind)
        place = f"/namespaces/{namespace}" if namespaced and namespace else ""
        parts = (plural, name, subresource)
        return f"{_root(version)}{place}/" + "/".join(part for part in parts if part)

    def _resource(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._resources:
            for found in self.request("GET", _root(version))["resources"]:
                if "/" not in found["name"]:
                    self._resources[version, found["kind"]] = found["name"], found["namespaced"]
        if (version, kind) not in self._resources:
            raise ApiError(404, {"reason": "NotFound", "message": f"the server knows no {kind} in {version}"})
        return self._resources[version, kind]


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _namespace(body: Object) -> str:
    namespace: str = body["metadata"].get("namespace", "")
    return namespace
