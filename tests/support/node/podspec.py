"""What a Pod's specification means for its processes and files. Pure: objects in, environments and files out."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Object = dict[str, Any]
Read = Callable[[str, str], Mapping[str, bytes] | None]
"""Kind and name, such as ConfigMap and epp, to keys and values; None where there is none in the Pod's namespace."""

_REFERENCE: Final = re.compile(r"\$\$|\$\(([^)]*)\)")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class NotYetError(Exception):
    """Something that the Pod refers to is not there. A kubelet tries again; the message is the container's reason to wait."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced; unknown names stay as they are, and `$$` is one dollar."""

    def replacement(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return _REFERENCE.sub(replacement, text)


def field(pod: Object, path: str) -> str:
    """A field of the downward API. Raises NotYetError for one that there is not."""
    if subscripted := _SUBSCRIPT.fullmatch(path):
        return str(pod["metadata"].get(subscripted[1], {}).get(subscripted[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = pod["metadata"].get(path.removeprefix("metadata."), {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    if path == "status.podIPs":
        path = "status.podIP"
    value: Any = pod
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        raise NotYetError(f"the Pod has no {path}")
    return str(value)


def environment(pod: Object, container: Object, read: Read, services: Mapping[str, str]) -> dict[str, str]:
    """`services` is what the kubelet says of Services; later entries win, and may refer to earlier ones."""
    found = dict(services)
    for source in container.get("envFrom", ()):
        for kind, reference in (("ConfigMap", source.get("configMapRef")), ("Secret", source.get("secretRef"))):
            if reference is not None:
                for key, content in _read(read, kind, reference).items():
                    found[source.get("prefix", "") + key] = content.decode()
    for entry in container.get("env", ()):
        value = _value(pod, entry, read, found)
        if value is not None:
            found[entry["name"]] = value
    return found


def command_line(
    container: Object, entrypoint: list[str], arguments: list[str], variables: Mapping[str, str]
) -> list[str]:
    """The image's entrypoint and arguments, unless the container has its own: its command drops both."""
    own = container.get("command")
    given = container.get("args") or (() if own else arguments)
    return [*(expand(text, variables) for text in own or entrypoint), *(expand(text, variables) for text in given)]


def service_variables(services: list[Object]) -> dict[str, str]:
    """What a kubelet tells of the Services of a namespace, for programs that were written before there was DNS."""
    found: dict[str, str] = {}
    for service in services:
        spec, name = service["spec"], service["metadata"]["name"].upper().replace("-", "_")
        address, ports = spec.get("clusterIP", "None"), spec.get("ports", ())
        if address in ("None", "") or not ports:
            continue
        found[f"{name}_SERVICE_HOST"], found[f"{name}_SERVICE_PORT"] = address, str(ports[0]["port"])
        found[f"{name}_PORT"] = f"{ports[0].get('protocol', 'TCP').lower()}://{address}:{ports[0]['port']}"
        for port in ports:
            if "name" in port:
                found[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    return found


def volume_files(pod: Object, volume: Object, read: Read, token: Callable[[Object], bytes]) -> dict[str, bytes] | None:
    """Path to content of a volume that holds what the API server knows; None for one that starts empty.

    `token` gives one for a serviceAccountToken source. Raises NotYetError, and for kinds that this node has not.
    """
    if "emptyDir" in volume:
        return None
    if "projected" in volume:
        merged: dict[str, bytes] = {}
        for source in volume["projected"]["sources"]:
            if "serviceAccountToken" in source:
                merged[source["serviceAccountToken"]["path"]] = token(source["serviceAccountToken"])
            else:
                merged |= _files(pod, source, read)
        return merged
    return _files(pod, volume, read)


def file_mode(volume: Object) -> int:
    for kind in ("configMap", "secret", "projected", "downwardAPI"):
        if kind in volume:
            return int(volume[kind].get("defaultMode", 0o644))
    return 0o644


def _files(pod: Object, source: Object, read: Read) -> dict[str, bytes]:
    if "downwardAPI" in source:
        return {
            i["path"]: field(pod, i["fieldRef"]["fieldPath"]).encode() for i in source["downwardAPI"].get("items", ())
        }
    for key, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
        if key in source:
            reference = source[key]
            name = reference.get("name", reference.get("secretName"))
            content = _read(read, kind, reference | {"name": name})
            items = reference.get("items")
            if items is None:
                return dict(content)
            try:
                return {item["path"]: content[item["key"]] for item in items}
            except KeyError as missing:
                raise NotYetError(f"{kind} {name} has no key {missing}") from None
    raise NotYetError(f"this node has no volumes of kind {sorted(set(source) - {'name'})}")


def _value(pod: Object, entry: Object, read: Read, so_far: Mapping[str, str]) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return expand(entry.get("value", ""), so_far)
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if key in source:
            reference = source[key]
            content = _read(read, kind, reference)
            if reference["key"] in content:
                return content[reference["key"]].decode()
            if reference.get("optional"):
                return None
            raise NotYetError(f"{kind} {reference['name']} has no key {reference['key']!r}")
    raise NotYetError(f"this node has no environment from {sorted(source)}")


def _read(read: Read, kind: str, reference: Object) -> Mapping[str, bytes]:
    content = read(kind, reference["name"])
    if content is not None:
        return content
    if reference.get("optional"):
        return {}
    raise NotYetError(f'{kind.lower()} "{reference["name"]}" not found')


def decoded(kind: str, found: Object) -> dict[str, bytes]:
    """Keys and values of a ConfigMap or Secret object."""
    encoded = {
        k: base64.b64decode(v) for k, v in found.get("binaryData" if kind == "ConfigMap" else "data", {}).items()
    }
    plain = found.get("data", {}) if kind == "ConfigMap" else {}
    return encoded | {key: text.encode() for key, text in plain.items()}
