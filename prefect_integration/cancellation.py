"""Stops a run whose Prefect flow run is being cancelled."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.runtime import flow_run

POLL_INTERVAL_S = 2.0
"""Time between two looks at the flow run's state, in seconds."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_with_flow_run(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` if the current flow run, or the one it is part of, is cancelled while the block runs.

    Where Prefect itself interrupts the thread, nothing is done: that is the main thread of a process that Prefect
    started for the flow run.

    Args:
        stop: ends the run; it may be called several times, from another thread.
    """
    if flow_run.id is None or _is_interrupted_by_prefect():
        yield
        return
    ended = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_poll, ended, stop), name="prefect-cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _is_interrupted_by_prefect() -> bool:
    on_main_thread = threading.current_thread() is threading.main_thread()
    return on_main_thread and bool(os.environ.get("PREFECT__FLOW_RUN_ID"))


def _poll(ended: threading.Event, stop: Callable[[], None]) -> None:
    wanted: set[UUID] = set()
    with get_client(sync_client=True) as client:
        while not ended.wait(POLL_INTERVAL_S):
            try:
                wanted = wanted or {UUID(flow_run.id), UUID(flow_run.root_flow_run_id)}
                cancelled = any(_is_cancelled(client, one) for one in wanted)
            except Exception as error:  # noqa: BLE001 - the server may be back at the next look
                logger.debug("the state of the flow run can't be read: %s", error)
                continue
            if cancelled:
                stop()


def _is_cancelled(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    state = client.read_flow_run(flow_run_id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())
