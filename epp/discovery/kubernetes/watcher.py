"""Follows all objects of one kind for as long as it runs: lists them once, then hears of every change.

Whatever goes wrong is tried again, at the pace that the trouble asks for, and what is known stays in use meanwhile. A list is
asked for again only when a watch cannot go on from where it was. All times are of a clock that never jumps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.collection import Changes, Collection
from epp.discovery.kubernetes.credentials import CredentialsError
from epp.discovery.kubernetes.errors import (
    ApiError,
    Forbidden,
    Gone,
    NotFound,
    Silent,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from epp.discovery.kubernetes.objects import Object
from epp.discovery.kubernetes.resources import Resource

_log: Final = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)


class Timing(msgspec.Struct, frozen=True):
    """In seconds, but for `page_size` (objects)."""

    first_retry_s: float = 0.2  # doubled after each failure in a row, less a random half
    last_retry_s: float = 15.0
    absent_s: float = 10.0  # between looks for a kind that is not installed
    denied_s: float = 15.0  # between attempts at what is not allowed
    watch_s: int = 300  # how long a watch is asked to last, and up to half as long again
    silence_s: float = 100.0  # bookmarks come every minute, once there was anything to tell
    brief_s: float = 1.0  # a watch that ends sooner, and brought nothing, has failed
    page_size: int = 500


class Watcher(Generic[T]):
    """Runs until cancelled; may be run again afterwards.

    `find` gives what to list: None while the kind is not installed. `changed` is told what is different, on the event loop.
    `trouble` says why changes are not heard, "" when they are. `settled`: it is known what there is, or that this is not to be
    known for now; called after each attempt to find out.
    """

    def __init__(
        self,
        api: Api,
        collection: Collection[T],
        find: Callable[[], Awaitable[Resource | None]],
        changed: Callable[[Resource, Changes[T]], None],
        *,
        selectors: Mapping[str, str] | None = None,
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing,
        settled: Callable[[], None],
    ) -> None:
        self.collection = collection
        self.trouble = ""
        self.listed = False  # what is known is, or was, the whole
        self.settled = False
        self.absent = False
        self.lists = 0
        self.events = 0
        self.errors: Counter[str] = Counter()  # by kind of trouble
        self._api = api
        self._find = find
        self._changed = changed
        self._selectors = dict(selectors or {})
        self._clock = clock
        self._rng = rng
        self._timing = timing
        self._settled = settled
        self._resource: Resource | None = None
        self._must_list = True
        self._failures = 0
        self._not_found = 0
        self._current_s = -math.inf  # when what is known was last known to be so
        self._watching = False

    @property
    def kind(self) -> str:
        return self.collection.kind

    def age_s(self) -> float:
        """How old what is known may be: 0 while changes are heard, inf before the first list."""
        return 0.0 if self._watching else self._clock() - self._current_s

    def select(self, selectors: Mapping[str, str]) -> None:
        """Follow others. For use while it does not run; what is known stays until the next list."""
        self._selectors = dict(selectors)
        self._must_list = True

    async def run(self) -> None:
        while True:
            pause_s = await self._attempt()
            self._settle()
            if pause_s:
                await asyncio.sleep(pause_s)

    async def _attempt(self) -> float:
        """List and watch until that comes to an end. Returns how long to wait before the next attempt."""
        try:
            if self._must_list and not await self._list():
                return self._jittered(self._timing.absent_s)
            await self._watch()
        except Gone as error:
            _log.info("%s: listing again: %s", self.kind, error)
            self._must_list = True
            return self._fail("gone", "")
        except NotFound as error:
            return self._lose(error)
        except TooManyRequests as error:
            self._fail("throttled", str(error))
            return error.retry_after_s * self._rng.uniform(1, 1.25)  # never sooner, and not all at once
        except Forbidden as error:
            self._fail("forbidden", str(error))
            return self._jittered(self._timing.denied_s)
        except (Unauthorized, CredentialsError) as error:
            return self._fail("unauthorized", f"the API server does not accept our credentials: {error}")
        except Silent as error:
            _log.info("%s: watching again: %s", self.kind, error)
            return self._fail("silent", "")
        except Unavailable as error:
            if error.status == 504:  # a version that the server has not reached, as after etcd came back from a backup
                self._must_list = True
            return self._fail("unavailable", f"the API server cannot be reached: {error}")
        except ApiError as error:
            self._must_list = True
            return self._fail("refused", str(error))
        except Exception as error:  # a defect here must not be the end of following Pods
            _log.exception("%s: following goes wrong", self.kind)
            self._must_list = True
            return self._fail("defect", f"{type(error).__name__}: {error}")
        finally:
            if self._watching:
                self._watching = False
                self._current_s = self._clock()
        return 0.0

    # --- a list ----------------------------------------------------------------------------------------------------------

    async def _list(self) -> bool:
        """Whether the kind is there."""
        resource = await self._find()
        if resource is None:
            self._take_as_absent()
            return False
        collection, continue_ = self.collection, ""
        collection.begin_list()
        while True:
            page = await self._api.page(
                resource, selectors=self._selectors, limit=self._timing.page_size, continue_=continue_
            )
            collection.add_page(page.items or ())
            continue_ = page.metadata.continue_
            if not continue_:
                break
        self.lists += 1
        self._resource = resource
        self._must_list = False
        self._not_found = 0
        self.absent = False
        changes = collection.end_list(page.metadata.resource_version)
        self._current_s = self._clock()
        self._recover()
        self.listed = True
        self._changed(resource, changes)
        self._settle()
        return True

    def _take_as_absent(self) -> None:
        changes = self.collection.forget()
        self._current_s = self._clock()
        self._recover()
        self.absent = self.listed = True
        if changes and self._resource is not None:
            self._changed(self._resource, changes)
        self._resource = None

    def _lose(self, error: NotFound) -> float:
        """The kind, or the namespace's path to it, is gone. A server that has just started may say so by mistake."""
        self._must_list = True
        self._not_found += 1
        if self._not_found < 3 and self.collection.objects:
            return self._fail("not_found", str(error))
        self._take_as_absent()
        return self._jittered(self._timing.absent_s)

    # --- a watch ---------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Hear of changes until the server ends the watch, as it is asked to now and then."""
        assert self._resource is not None
        resource, timing, collection = self._resource, self._timing, self.collection
        began_s, heard = self._clock(), False
        batches = self._api.watch(
            resource,
            collection.revision,
            selectors=self._selectors,
            lasts_s=timing.watch_s + self._rng.randrange(timing.watch_s // 2 + 1),  # not all pickers at once
            silence_s=timing.silence_s,
            opened=self._opened,
        )
        async with contextlib.aclosing(batches):
            try:
                async for batch in batches:
                    changes: Changes[T] = {}
                    for event in batch:
                        collection.apply(event.type, event.object, changes)
                    self.events += len(batch)
                    heard = True
                    self._failures = 0
                    if changes:
                        self._changed(resource, changes)
                    await asyncio.sleep(0)  # what has been buffered would come without a pause
            except Silent:
                # kube-apiserver sends no bookmarks of a kind until anything has happened to it: perhaps all is well.
                # Another watch finds out, and makes up for what this one should have told.
                if heard:
                    raise
                return
        if not heard and self._clock() - began_s < timing.brief_s:
            raise Unavailable(f"watch {resource.plural}: it ended at once")
        self._failures = 0

    def _opened(self) -> None:
        self._watching = True
        self._recover()

    # --- how it fares ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self.settled = True
        self._settled()

    def _recover(self) -> None:
        if self.trouble:
            _log.info("%s: changes are heard of again", self.kind)
        self.trouble = ""

    def _fail(self, reason: str, trouble: str) -> float:
        """Count it, and say it once for as long as it stays the same. Returns how long to wait."""
        self.errors[reason] += 1
        if trouble and trouble != self.trouble:
            _log.warning("%s: %s; what is known stays in use", self.kind, trouble)
        self.trouble = trouble or self.trouble
        timing = self._timing
        pause_s = min(timing.last_retry_s, timing.first_retry_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._jittered(pause_s)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.5, 1)
