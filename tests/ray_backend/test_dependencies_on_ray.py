"""Chains of executors on a real cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import DependencyFailedError, RayPipelineExecutor, RunIncompleteError
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.steps import read_reports

pytestmark = pytest.mark.usefixtures("ray_cluster")

Chain = Callable[..., RayPipelineExecutor]


@pytest.fixture
def link(make_executor: ExecutorFactory, tmp_path: Path) -> Chain:
    """A function that makes a named executor, whose run folder and reports have the same name."""

    def make(name: str, *parents: RayPipelineExecutor, pipeline: Any = None, **parameters: Any) -> RayPipelineExecutor:
        return make_executor(
            pipeline or [steps.report_to(tmp_path / "reports" / name)],
            logging_dir=str(tmp_path / name),
            name=name,
            depends=list(parents),
            workers=1,
            **parameters,
        )

    return make


def test_diamond_runs_each_executor_once_and_parents_first(link: Chain, tmp_path: Path) -> None:
    top = link("top", tasks=2)
    left, right = link("left", top), link("right", top)

    assert link("bottom", left, right).run().ok

    times = {
        name: [report["ended"] for report in read_reports(tmp_path / "reports" / name)]
        for name in ("top", "left", "right", "bottom")
    }
    assert [len(times[name]) for name in times] == [2, 1, 1, 1]
    assert max(times["top"]) < min(times["left"] + times["right"])
    assert max(times["left"] + times["right"]) < times["bottom"][0]


def test_failed_parent_stops_its_children_with_its_name(link: Chain, tmp_path: Path) -> None:
    bad = link("bad", pipeline=[steps.fail_on(0)], tasks=2)
    middle = link("middle", bad)
    bystander = link("bystander")

    with pytest.raises(DependencyFailedError, match=r"'bad'.*this rank is bad") as caught:
        link("last", middle, bystander).run()

    assert caught.value.result is not None
    assert caught.value.result.name == "bad"
    assert isinstance(caught.value.__cause__, RunIncompleteError)
    assert not (tmp_path / "middle").exists()
    assert not (tmp_path / "last").exists()
    assert len(read_reports(tmp_path / "reports" / "bystander")) == 1, "it does not depend on what failed"


def test_parent_completed_by_an_earlier_run_is_not_run_again(link: Chain, tmp_path: Path) -> None:
    link("first").run()
    before = read_reports(tmp_path / "reports" / "first")

    link("second", link("first")).run()

    assert read_reports(tmp_path / "reports" / "first") == before


def test_gangs_are_counted_as_groups_and_start_without_barriers(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    """A slow rank of one gang must not delay the other gang."""
    executor = make_executor(
        [_slow_for_rank_0, steps.report_to(tmp_path)], tasks=5, nodes_per_task=2, workers=2, cpus_per_task=1
    )
    executor.run()

    reports = [report for report in read_reports(tmp_path) if report["environment"]["RAY_NODEID"] == "0"]
    ended = {report["rank"]: report["ended"] for report in reports}
    assert sorted(ended) == list(range(5))
    assert all(ended[rank] < ended[0] for rank in range(1, 5)), "the other gang did all the rest meanwhile"


def _slow_for_rank_0(data: Any, rank: int, world_size: int) -> Any:
    import time

    time.sleep(8 if rank == 0 else 0)
    return data
