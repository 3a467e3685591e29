"""Stops a run when its Prefect flow run is cancelled."""

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
"""Time between two requests for the flow run's state, in seconds."""
REQUEST_TIMEOUT_S = 10.0
"""How long the server may take to answer, in seconds."""
CONFIRM_DELAY_S = 3.0
"""Time between the end of a stopped run and the change of its flow run to *Cancelled*, in seconds."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stopped_with_flow_run(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` if the current flow run, or the one it is a subflow of, is cancelled while the block runs.

    Prefect itself interrupts the main thread of a process that a runner or worker started for the flow run; there
    this does nothing. It is needed in the threads of submitted tasks, which Prefect does not interrupt, and in scripts
    that were started by hand, which have no runner.

    Args:
        stop: ends the run; it may be called several times, from another thread.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if flow_run.id is None or (on_main_thread and _has_runner()):
        yield
        return
    ended = threading.Event()
    context = contextvars.copy_context()
    # Not a daemon: it ends with the block or soon after, and must still set the state of the flow run.
    threading.Thread(target=context.run, args=(_poll_flow_runs, ended, stop), name="prefect-cancellation").start()
    try:
        yield
    finally:
        ended.set()


def _has_runner() -> bool:
    """Return whether a runner started this process for the flow run, with `serve` or in a worker, and can cancel it."""
    return deployment.id is not None or "PREFECT__FLOW_RUN_ID" in os.environ


def _poll_flow_runs(ended: threading.Event, stop: Callable[[], None]) -> None:
    cancelled: set[UUID] = set()
    # A separate client: the one of the flow run is used by other threads, and closed when the flow ends.
    with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_TIMEOUT_S}) as client:
        while not ended.wait(POLL_INTERVAL_S):
            try:
                cancelled = {each for each in _flow_run_ids() if _is_cancelled(client, each)}
            except Exception as error:  # noqa: BLE001 - the next request may succeed
                logger.debug("could not read the state of the flow run: %s", error)
            if cancelled:
                stop()
        if cancelled:
            # The flow must end first: the server rejects its final state as long as the flow run is *Cancelling*.
            # Also where there is a runner: those of Prefect 3.4 forget a process that has ended before they look at it.
            time.sleep(CONFIRM_DELAY_S)
            _set_cancelled(client, cancelled)


def _flow_run_ids() -> set[UUID]:
    return {UUID(flow_run.id), UUID(flow_run.root_flow_run_id)}


def _is_cancelled(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    state = client.read_flow_run(flow_run_id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _set_cancelled(client: SyncPrefectClient, flow_runs: set[UUID]) -> None:
    """Move the flow runs from *Cancelling* to *Cancelled*, as a runner would."""
    for flow_run_id in flow_runs:
        try:
            client.set_flow_run_state(flow_run_id, Cancelled(message="The Ray pipeline was stopped"))
        except Exception as error:  # noqa: BLE001 - the run has been stopped all the same
            logger.warning(
                "could not set the state of flow run %s to Cancelled; set it in Prefect's UI: %s", flow_run_id, error
            )
