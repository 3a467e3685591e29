"""Stops a run whose Prefect flow run is being cancelled."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

POLL_INTERVAL_S = 2.0
"""Time between two looks at the flow run's state, in seconds."""
REQUEST_TIMEOUT_S = 10.0
"""How long the server may take to answer, in seconds."""
CONFIRM_DELAY_S = 3.0
"""Time between the end of a stopped run and the confirmation that its flow run is cancelled, in seconds."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_with_flow_run(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` if the current flow run, or the one it is part of, is cancelled while the block runs.

    Where Prefect itself interrupts the thread, nothing is done: that is the main thread of a process that Prefect
    started for the flow run. Elsewhere nobody tells it: a submitted task runs in a thread of a pool, and a script
    that was started by hand has no runner.

    Args:
        stop: ends the run; it may be called several times, from another thread.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if flow_run.id is None or (on_main_thread and _has_runner()):
        yield
        return
    ended = threading.Event()
    context = contextvars.copy_context()
    # No daemon: it ends when the block does, or soon after, and what it has to say must not be lost.
    threading.Thread(target=context.run, args=(_watch, ended, stop), name="prefect-cancellation").start()
    try:
        yield
    finally:
        ended.set()


def _has_runner() -> bool:
    """Whether this process was started for the flow run, by `serve` or a worker, which sees to cancelling it."""
    return deployment.id is not None or "PREFECT__FLOW_RUN_ID" in os.environ


def _watch(ended: threading.Event, stop: Callable[[], None]) -> None:
    cancelled: set[UUID] = set()
    # A client of its own: that of the flow run is closed when the flow ends, and used by other threads.
    with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_TIMEOUT_S}) as client:
        while not ended.wait(POLL_INTERVAL_S):
            try:
                cancelled = {one for one in _flow_run_ids() if _is_cancelled(client, one)}
            except Exception as error:  # noqa: BLE001 - the server may be back at the next look
                logger.debug("the state of the flow run can't be read: %s", error)
            if cancelled:
                stop()
        if cancelled and not _has_runner():
            # First comes the flow's own end: the server turns it down as long as the flow run is being cancelled.
            time.sleep(CONFIRM_DELAY_S)
            _confirm(client, cancelled)


def _flow_run_ids() -> set[UUID]:
    return {UUID(flow_run.id), UUID(flow_run.root_flow_run_id)}


def _is_cancelled(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    state = client.read_flow_run(flow_run_id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _confirm(client: SyncPrefectClient, flow_runs: set[UUID]) -> None:
    """Does what a runner would: a flow run that is being cancelled becomes *Cancelled*, and nothing else."""
    for flow_run_id in flow_runs:
        try:
            client.set_flow_run_state(flow_run_id, Cancelled(message="Its Ray pipeline was stopped."))
        except Exception as error:  # noqa: BLE001 - the run is stopped in any case
            logger.warning("flow run %s stays in state Cancelling: %s", flow_run_id, error)
