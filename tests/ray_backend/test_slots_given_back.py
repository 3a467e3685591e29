"""While one rank is retried, the cluster gets back what the run has nothing to do for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy
from ray_pipeline_core.ray_backend import idle_workers
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import living_actors, living_placement_groups
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")

RETRY = RetryPolicy(max_errors=10_000, retry_on=(ConnectionError,), backoff_s=0.1, backoff_max_s=0.5)


def fail_until(path: str, data: Any, rank: int, world_size: int) -> None:
    if rank == 0:
        time.sleep(0.5)
        if not Path(path).exists():
            raise ConnectionError("the source hung up")


@pytest.fixture
def while_retried(make_executor: ExecutorFactory, tmp_path: Path) -> Iterator[Callable[..., RayPipelineExecutor]]:
    """Runs an executor whose first rank fails again and again, until the test has ended."""
    healed = tmp_path / "healed"
    with ThreadPoolExecutor() as threads:

        def start(make_last: Callable[[RayPipelineExecutor], RayPipelineExecutor], **parameters: Any) -> None:
            step = functools.partial(fail_until, str(healed))
            executor = make_executor([step], tasks=6, retry=RETRY, **parameters)
            runs.append(threads.submit(make_last(executor).run))

        runs: list[Any] = []
        try:
            yield start  # type: ignore[misc]
        finally:
            healed.touch()
            assert all(run.result().ok for run in runs)


def completed(run_folder: Path) -> int:
    return len(list((run_folder / "completions").glob("*")))


def test_one_worker_is_left(while_retried: Any, run_folder: Path) -> None:
    while_retried(lambda executor: executor, workers=4)
    wait_for(lambda: completed(run_folder) == 5, "all others have completed")
    wait_for(lambda: len(living_actors()) == 1, "the other workers have ended", timeout_s=20)


def test_one_gang_is_left(while_retried: Any, run_folder: Path) -> None:
    while_retried(lambda executor: executor, workers=2, nodes_per_task=2)
    wait_for(lambda: completed(run_folder) == 5, "all others have completed")
    wait_for(lambda: len(living_actors()) == 2, "the other gang has ended", timeout_s=20)
    wait_for(lambda: len(living_placement_groups()) == 1, "its placement group is removed", timeout_s=20)


def test_workers_kept_for_the_next_executor_are_given_back_after_a_while(
    while_retried: Any,
    make_executor: ExecutorFactory,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle_workers, "IDLE_WORKER_TTL_S", 2.0)  # the constant is for work, not for a test

    def with_next(executor: RayPipelineExecutor) -> RayPipelineExecutor:
        return make_executor([do_nothing], depends=executor, workers=4, logging_dir=str(tmp_path / "next"))

    while_retried(with_next, workers=4)
    wait_for(lambda: completed(run_folder) == 5, "all others have completed")
    wait_for(lambda: len(living_actors()) == 1, "the workers that were kept have ended", timeout_s=20)
