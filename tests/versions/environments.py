"""The environments of the version matrix: what is installed in each, and which tests run there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OLD_FIRST = ("3.10", "3.11", "3.12")
NEW_FIRST = ("3.13", "3.12", "3.11", "3.10")

_PARAMETERS = "tests/ray_backend/test_parameters.py"
_FAILURES = "tests/ray_backend/test_failures.py"
RAY_TESTS = (
    "tests/ray_backend/test_ray_errors.py",
    f"{_PARAMETERS}::test_pipeline_of_data_and_step_counts_items",
    f"{_PARAMETERS}::test_cpus_and_memory_are_reserved",
    f"{_PARAMETERS}::test_nodes_per_task_runs_every_rank_on_several_nodes",
    f"{_PARAMETERS}::test_ray_remote_kwargs_place_workers",
    f"{_PARAMETERS}::test_max_ranks_per_worker_replaces_the_process",
    f"{_FAILURES}::test_rank_that_raises_fails_the_run_after_the_others_finished",
    f"{_FAILURES}::test_rank_whose_process_dies_is_tried_again[kill-1]",
    f"{_FAILURES}::test_time_limit_ends_only_the_group_concerned",
    f"{_FAILURES}::test_error_that_may_be_retried_is[retry_on0]",
    f"{_FAILURES}::test_resources_that_never_come_are_an_error",
    f"{_FAILURES}::test_member_of_a_gang_that_dies_ends_and_retries_the_gang",
    "tests/ray_backend/test_idle_workers.py::test_gang_is_kept_with_its_placement_group",
    "tests/ray_backend/test_stopping.py::test_stop_from_another_thread_ends_the_run_and_the_next_one_resumes",
    "tests/ray_backend/test_stopping.py::test_ray_option_that_ray_refuses_is_an_error_before_anything_starts",
    "tests/ray_backend/test_waiting_requests.py::test_ray_tells_which_requests_wait_beside_those_of_other_runs_of_the_graph",
    "tests/ray_backend/test_shared_connection.py::test_runs_of_one_process_share_a_cluster_that_ends_with_the_last",
    "tests/chaos/test_nodes.py::test_worker_that_dies_on_a_draining_node_costs_no_retry",
)

_RUNS = "tests/airflow_provider/test_operator_runs.py"
AIRFLOW_TESTS = (
    "tests/airflow_provider/test_provider_info.py",
    "tests/airflow_provider/test_ray_hook.py",
    "tests/airflow_provider/test_links.py",
    "tests/airflow_provider/test_run_counts.py",
    "tests/airflow_provider/test_task_decorator.py",
    "tests/airflow_provider/test_default_folder.py",
    "tests/airflow_provider/test_failed_results.py",
    "tests/airflow_provider/test_operator_arguments.py",
    "tests/airflow_provider/test_operator_templates.py",
    "tests/airflow_provider/test_operator_reruns.py",
    "tests/airflow_provider/test_mapped_tasks.py",
    "tests/airflow_provider/test_masking.py",
    "tests/airflow_provider/test_task_group.py",
    f"{_RUNS}::test_xcom_is_the_result_and_templates_are_rendered",
    f"{_RUNS}::test_second_try_runs_only_missing_ranks_when_some_failed",
    "tests/orchestrators/test_operator_in_airflow.py",
    "tests/orchestrators/test_readme_examples.py::test_dag_runs_in_a_started_airflow",
)

_JOBS = "tests/airflow_jobs"
_JOB_RUNS = f"{_JOBS}/test_job_runs.py::test_run_ends_as_it_should"
_INTERVENTIONS = f"{_JOBS}/test_job_interventions.py"
JOB_TESTS = (
    f"{_JOBS}/test_task_jobs.py",
    f"{_JOB_RUNS}[execution_timeout]",
    f"{_JOB_RUNS}[waiting]",
    f"{_JOB_RUNS}[deferred]",
    f"{_JOB_RUNS}[failed rank]",
    f"{_JOB_RUNS}[retry of one rank]",
    f"{_INTERVENTIONS}::test_job_stops_when_its_task_is_marked",
    # Airflow 3.0 leaves a task that was running when it was cleared in the state "restarting" for ever.
    f"{_INTERVENTIONS}::test_clear_stops_the_job_before_another_one_starts[cleared]",
    f"{_INTERVENTIONS}::test_clear_runs_what_rerun_says",
)
"""What a task does whose driver is a job, on a started Airflow: its runs, and what users do to them.

What processes that are lost lead to is Airflow's own doing, and other in each release: 3.0 does not retry their tasks.
"""

_TASK = "tests/prefect_integration/test_run_task.py"
_FLOW = "tests/prefect_integration/test_flow_builder.py"
_CANCELLATION = "tests/prefect_integration/test_cancellation.py"
PREFECT_TESTS = (
    "tests/prefect_integration/test_artifacts.py",
    "tests/prefect_integration/test_flow_registry.py",
    "tests/prefect_integration/test_retry_condition.py",
    f"{_TASK}::test_task_returns_what_result_json_holds_when_all_ranks_complete",
    f"{_TASK}::test_failed_ranks_reach_log_and_artifact_when_some_fail",
    f"{_TASK}::test_retry_runs_only_the_missing_ranks_when_a_rank_failed",
    f"{_TASK}::test_task_runs_when_called_from_an_asynchronous_flow",
    f"{_TASK}::test_ranks_end_when_the_task_runs_out_of_time",
    f"{_FLOW}::test_flow_has_a_task_run_per_executor_and_an_edge_per_dependency",
    f"{_FLOW}::test_children_are_never_run_when_a_parent_fails",
    f"{_FLOW}::test_flow_survives_pickling_when_it_is_served",
    f"{_CANCELLATION}::test_ranks_end_when_the_flow_run_of_a_script_is_cancelled",
    f"{_CANCELLATION}::test_ranks_end_when_a_served_flow_run_is_cancelled",
    "tests/orchestrators/test_readme_examples.py::test_flow_that_is_served_runs",
)


@dataclass(frozen=True)
class Environment:
    """An environment of the matrix.

    Attributes:
        name: what is tested, a dash, and in which version.
        pythons: versions of Python; the first that can be had is used.
        package: this package, with the extra that is needed; its requirements count as well.
        requirements: what else is installed.
        tests: arguments of pytest.
        until: a date; everything is installed in the newest version of that day. None = of today.
        kept: what is installed first, in its newest release, and must not be replaced by another one afterwards.
    """

    name: str
    pythons: tuple[str, ...]
    package: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]
    until: str | None = None
    kept: str | None = None

    def is_called(self, word: str) -> bool:
        """Return whether `word` is its name, what it tests, or the version of that."""
        return word in (self.name, *self.name.split("-", 1))


RAY = "ray[default]==2.49.0"
AIRFLOW = "apache-airflow==3.0.6"
PREFECT = "prefect==3.4.0"
"""The oldest supported versions."""


def _older_airflow(version: str, pythons: tuple[str, ...], requirements: tuple[str, ...], until: str) -> Environment:
    """Return the environment of an Airflow that is not the one of `make test-airflow`."""
    needed = (*requirements, "asyncpg>=0.29", "moto[server]>=5.0", "psycopg2-binary>=2.9.9", "trustme>=1.1")
    return Environment(f"airflow-{version}", pythons, ".[airflow]", needed, (*AIRFLOW_TESTS, *JOB_TESTS), until)


ENVIRONMENTS = (
    Environment("ray-lowest", OLD_FIRST, ".", (RAY,), RAY_TESTS, "2025-09-15"),
    Environment("ray-newest", NEW_FIRST, ".", (), RAY_TESTS, kept="ray[default]"),
    _older_airflow("lowest", OLD_FIRST, (AIRFLOW, RAY), "2025-09-15"),
    _older_airflow("3.1", OLD_FIRST, ("apache-airflow==3.1.*",), "2026-01-15"),
    _older_airflow("3.2", NEW_FIRST, ("apache-airflow==3.2.*",), "2026-06-15"),
    Environment("airflow-newest", NEW_FIRST, ".[airflow]", (), AIRFLOW_TESTS, kept="apache-airflow"),
    Environment("prefect-lowest", OLD_FIRST, ".[prefect]", (PREFECT, RAY), PREFECT_TESTS, "2025-09-15"),
    Environment("prefect-3.6", OLD_FIRST, ".[prefect]", ("prefect==3.6.*",), PREFECT_TESTS, "2026-01-15"),
    Environment("prefect-newest", NEW_FIRST, ".[prefect]", (), PREFECT_TESTS, kept="prefect"),
    *(Environment(f"python-{version}", (version,), ".", (), RAY_TESTS) for version in reversed(NEW_FIRST)),
)


def select(words: Sequence[str]) -> list[Environment]:
    """Return the environments that one of the words names; all of them if there are no words.

    Raises:
        ValueError: a word names none.
    """
    for word in words:
        if not any(environment.is_called(word) for environment in ENVIRONMENTS):
            names = ", ".join(environment.name for environment in ENVIRONMENTS)
            raise ValueError(f"no environment is called {word!r}; there are {names}")
    return [one for one in ENVIRONMENTS if not words or any(one.is_called(word) for word in words)]
