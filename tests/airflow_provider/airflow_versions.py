"""Names for tests that the supported releases of Airflow have in different modules."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

RELEASE = tuple(map(int, version("apache-airflow-core").split(".")[:2]))
_IS_SPLIT = RELEASE >= (3, 2)  # into what DAGs import and what the scheduler imports

dagbag: Any = import_module("airflow.dag_processing.dagbag" if _IS_SPLIT else "airflow.models.dagbag")
_exceptions: Any = import_module("airflow.sdk.exceptions" if _IS_SPLIT else "airflow.exceptions")
_serialization: Any = import_module("airflow.serialization.serialized_objects")

AirflowTaskTimeout: type[BaseException] = _exceptions.AirflowTaskTimeout
DagSerialization: Any = _serialization.DagSerialization if _IS_SPLIT else _serialization.SerializedDAG
