"""Whose token it is and what they may, by TokenReview and SubjectAccessReview."""

from __future__ import annotations

from typing import Any

import msgspec

from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.resources import ACCESS_REVIEWS, TOKEN_REVIEWS


class User(msgspec.Struct, frozen=True):
    """UserInfo of a TokenReview."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Reviews:
    """Both questions. Raises an ApiError where the API server cannot be asked, or does not let us ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def authenticate(self, token: str) -> User | None:
        """Whose token it is; None: it is not valid."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = _status(await self._api.create(TOKEN_REVIEWS, body))
        user = status.get("user") or {}
        if not status.get("authenticated") or not user.get("username"):
            return None
        extra = user.get("extra") or {}
        return User(
            user["username"],
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            extra=tuple((key, tuple(values)) for key, values in sorted(extra.items())),
        )

    async def allows(self, user: User, path: str) -> bool:
        """Whether `user` may get the nonResourceURL `path`."""
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": user.groups,
            "extra": dict(user.extra),
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(_status(await self._api.create(ACCESS_REVIEWS, body)).get("allowed"))


def _status(review: dict[str, Any]) -> dict[str, Any]:
    status: dict[str, Any] = review.get("status") or {}
    return status
