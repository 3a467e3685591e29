"""Which try of which task instance something belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TaskKey:
    """A task instance.

    Attributes:
        dag_id: its DAG.
        run_id: its DAG run.
        task_id: its task.
        map_index: its index among mapped instances; -1 if it is not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def of(cls, ti: Any) -> TaskKey:
        """Return the key of a task instance of Airflow's."""
        return cls(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as the arguments of functions of Airflow's."""
        return asdict(self)

    def metadata(self) -> Mapping[str, str]:
        """Return the fields as strings, as the metadata of a job."""
        return {name: str(value) for name, value in self.to_dict().items()}
