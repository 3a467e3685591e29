"""The records of a flow run on a Prefect server: its task runs, logs and artifacts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import State, TaskRun

from tests.support.waiting import wait_for


@dataclass(frozen=True)
class FlowRunRecords:
    """The records of a flow run.

    Attributes:
        client: The client of the server.
        flow_run_id: The id of the flow run.
    """

    client: SyncPrefectClient
    flow_run_id: UUID

    @property
    def state(self) -> State[Any]:
        """The flow run's state."""
        state = self.client.read_flow_run(self.flow_run_id).state
        assert state is not None
        return state

    def task_runs(self, **state_names: str) -> dict[str, TaskRun]:
        """Wait until the task runs have these states, and return them by name."""

        def read() -> dict[str, TaskRun]:
            return {run.name: run for run in self._read_task_runs()}

        wait_for(lambda: {name: run.state_name for name, run in read().items()} == state_names, "the task runs")
        return read()

    def assert_states(self, *state_names: str) -> None:
        """Wait until the task runs have these states, whatever their names."""
        expected = sorted(state_names)
        wait_for(lambda: sorted(str(run.state_name) for run in self._read_task_runs()) == expected, "the task runs")

    def _read_task_runs(self) -> list[TaskRun]:
        wanted = FlowRunFilter.model_validate({"id": {"any_": [self.flow_run_id]}})
        return list(self.client.read_task_runs(flow_run_filter=wanted))

    def artifacts(self, kind: str = "table") -> dict[str, Any]:
        """Return the data of the flow run's artifacts of one kind, by key."""
        wanted = ArtifactFilter.model_validate({"flow_run_id": {"any_": [self.flow_run_id]}, "type": {"any_": [kind]}})
        found = self.client.read_artifacts(artifact_filter=wanted)
        return {str(one.key): json.loads(one.data) if isinstance(one.data, str) else one.data for one in found}

    def log_lines(self, *needed: str) -> list[tuple[int, str]]:
        """Wait until each of `needed` occurs in a line of the log, and return the levels and messages of all lines."""

        def read() -> list[tuple[int, str]]:
            wanted = LogFilter.model_validate({"flow_run_id": {"any_": [self.flow_run_id]}})
            return [(line.level, line.message) for line in self.client.read_logs(wanted)]

        wait_for(lambda: all(any(text in line for _, line in read()) for text in needed), "the lines of the log")
        return read()
