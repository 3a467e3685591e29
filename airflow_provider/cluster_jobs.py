"""The list of a cluster's jobs, which all that wait for one of them in an event loop read together."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ray_pipeline_core import ClusterConnection, JobInfo

Jobs: TypeAlias = Mapping[str, JobInfo]
_listings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, _Listing]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Listing:
    asked_at_s: float
    answer: asyncio.Task[Jobs]


async def jobs_at(cluster: ClusterConnection, max_age_s: float) -> Jobs:
    """Return the jobs of a cluster by their ids; those who ask within `max_age_s` seconds share one request.

    Raises:
        ClusterError: the cluster does not answer, or refuses to.
    """
    loop = asyncio.get_running_loop()
    listings = _listings.setdefault(loop, {})
    key = _key(cluster)
    listing = listings.get(key)
    if listing is None or loop.time() - listing.asked_at_s > max_age_s:
        _forget_old(listings, loop.time())
        listing = listings[key] = _Listing(loop.time(), loop.create_task(_list_jobs(cluster)))
    return await asyncio.shield(listing.answer)  # others wait for it as well


async def next_tick(interval_s: float) -> None:
    """Sleep until the next multiple of an interval, so that all that wait with one interval ask at the same time."""
    await asyncio.sleep(interval_s - asyncio.get_running_loop().time() % interval_s)


async def _list_jobs(cluster: ClusterConnection) -> Jobs:
    return {job.submission_id: job for job in await cluster.ajobs()}


def _key(cluster: ClusterConnection) -> object:
    return cluster.url, cluster.token, cluster.verify, tuple(sorted((cluster.headers or {}).items()))


def _forget_old(listings: dict[object, _Listing], now_s: float) -> None:
    for key in [key for key, listing in listings.items() if now_s - listing.asked_at_s > _KEPT_S]:
        if listings[key].answer.done():
            listings.pop(key).answer.exception()  # nobody may have waited for it to the end


_KEPT_S = 600.0
