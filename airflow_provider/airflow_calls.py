"""Calls of Airflow's functions that wait for its API, from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a blocking function returns, without blocking the event loop.

    A cancellation keeps its message, by which Airflow tells a trigger whose task was killed from one that moves.
    """
    call = asyncio.ensure_future(sync_to_async(function, thread_sensitive=False)(*args, **kwargs))
    return await asyncio.shield(call)
