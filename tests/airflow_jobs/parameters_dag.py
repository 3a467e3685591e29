"""An Airflow DAG for each mode of the operator, with every parameter, as a template where it may be one."""

from __future__ import annotations

import os
from typing import Any

from job_operators import MODES, job  # type: ignore[import-not-found]

EVERY_PARAMETER: dict[str, Any] = {
    "name": "all {{ run_id[:6] }}",
    "skip_completed": "{{ true }}",
    "randomize_start_duration": 1,
    "cpus_per_task": "{{ 1 }}",
    "gpus_per_task": 0,
    "nodes_per_task": 1,
    "ray_remote_kwargs": {"resources": {"node:__internal_head__": 0.001}},
    "log_first": True,
    "tasks_per_job": 2,
    "time": "{{ '00:10:00' }}",
    "max_failed_ranks": "{{ 0 }}",
    "startup_timeout": 600,
    "placement_strategy": "PACK",
    "max_ranks_per_worker": 4,
    "run_timeout": "{{ 900 }}",
    "stall_timeout": 600,
    "runtime_env": {"env_vars": {"PASSWORD": os.environ["PLANTED_RUNTIME_ENV"]}},
    "rerun": "{{ 'auto' }}",
}
for mode, arguments in MODES.items():
    job(f"every_parameter_{mode}", **EVERY_PARAMETER | arguments)
