"""The effect of each inherited parameter on a cluster."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.steps import do_nothing, read_reports, write_to

pytestmark = pytest.mark.usefixtures("ray_cluster")


def ray_nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def session_folder() -> str:
    import ray._private.worker as ray_worker

    node: Any = ray_worker._global_node
    return str(node.get_session_dir_path())


def overlap(reports: list[dict[str, Any]]) -> int:
    """Return how many of the reported ranks ran at the same time, at most."""
    moments = sorted([(r["started"], 1) for r in reports] + [(r["ended"], -1) for r in reports])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def test_pipeline_and_tasks_cut_data_into_ranks(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    result = make_executor([steps.numbers, write_to(tmp_path / "out")], tasks=3).run()

    written = [json.loads((tmp_path / "out" / f"{rank}.json").read_text()) for rank in range(3)]
    assert sorted(number for part in written for number in part) == list(range(20))
    assert written[1] == list(range(1, 20, 3))
    assert (result.completed, result.world_size, result.skipped, result.failed) == (3, 3, 0, ())
    assert result.ok


def test_pipeline_of_data_and_step_counts_items(make_executor: ExecutorFactory) -> None:
    result = make_executor([[1, 2, 3], steps.Counter()], tasks=2).run()

    assert [entry["name"] for entry in result.stats] == ["Test: counter"]
    assert result.stats[0]["stats"]["seen"]["total"] == 6


def test_pipeline_given_as_import_path_is_called_with_its_arguments(make_executor: ExecutorFactory) -> None:
    executor = make_executor("tests.ray_backend.steps:make_pipeline", pipeline_kwargs={"count": 4}, tasks=2)

    assert executor.run().stats[0]["stats"]["seen"]["total"] == 8


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (2, 2)])
def test_workers_bounds_groups_at_work(
    make_executor: ExecutorFactory, tmp_path: Path, workers: int, at_once: int
) -> None:
    executor = make_executor(
        [steps.report_to(tmp_path / "out")],
        tasks=6,
        workers=workers,
        ray_remote_kwargs={"runtime_env": {"env_vars": {"REPORT_SLEEP_S": "0.5"}}},
    )
    executor.run()

    assert overlap(read_reports(tmp_path / "out")) == at_once


def test_workers_of_minus_one_takes_what_the_cluster_grants(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    executor = make_executor(
        [steps.report_to(tmp_path / "out")],
        tasks=12,
        workers=-1,
        cpus_per_task=2,
        ray_remote_kwargs={"runtime_env": {"env_vars": {"REPORT_SLEEP_S": "2"}}},
    )
    executor.run()

    assert overlap(read_reports(tmp_path / "out")) == 3  # three nodes of two CPUs


def test_skip_completed_runs_only_what_is_missing(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make_executor([steps.numbers, write_to(out)], tasks=3).run()
    (run_folder / "completions" / "00001").unlink()
    for file in out.iterdir():
        file.unlink()

    result = make_executor([steps.numbers, write_to(out)], tasks=3).run()

    assert [file.name for file in out.iterdir()] == ["1.json"]
    assert (result.completed, result.skipped) == (3, 2)


def test_skip_completed_false_runs_everything_again(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_executor([steps.numbers, write_to(out)], tasks=3).run()
    for file in out.iterdir():
        file.unlink()

    result = make_executor([steps.numbers, write_to(out)], tasks=3, skip_completed=False).run()

    assert len(list(out.iterdir())) == 3
    assert (result.completed, result.skipped) == (3, 0)


def test_skip_completed_false_removes_markers_before_ranks_run(
    make_executor: ExecutorFactory, run_folder: Path
) -> None:
    make_executor([do_nothing], tasks=2).run()

    with pytest.raises(Exception, match="rank 1"):
        make_executor([steps.fail_on(1)], tasks=2, skip_completed=False).run()

    assert [file.name for file in (run_folder / "completions").iterdir()] == ["00000"]


def test_randomize_start_duration_delays_ranks(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    def note_start(data: Any, rank: int, world_size: int) -> None:
        (tmp_path / f"{rank}.started").write_text(str(time.time()))

    make_executor([note_start], tasks=5, workers=1, randomize_start_duration=1).run()

    started = sorted(float(path.read_text()) for path in tmp_path.glob("*.started"))
    waits = [after - before for before, after in itertools.pairwise(started)]
    assert len(waits) == 4
    assert max(waits) > 0.1, "four waits of up to a second, all below a tenth of it"
    assert len({round(wait, 2) for wait in waits}) > 1, "all ranks waited alike"


def test_cpus_and_memory_are_reserved(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.report_to(tmp_path)], cpus_per_task=2, mem_per_cpu_gb=0.5).run()

    (report,) = read_reports(tmp_path)
    assert report["resources"]["CPU"] == 2
    assert report["resources"]["memory"] == 1024**3
    assert report["environment"]["DATATROVE_CPUS_PER_TASK"] == "2"
    assert report["environment"]["DATATROVE_MEM_PER_CPU"] == "0.5"


def test_gpus_per_task_are_reserved_on_a_node_that_has_them(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.report_to(tmp_path)], gpus_per_task=2).run()

    (report,) = read_reports(tmp_path)
    gpu_nodes = {node["NodeID"] for node in ray_nodes() if node["Resources"].get("GPU")}
    assert report["node_id"] in gpu_nodes
    assert report["cuda"] == "0,1"
    assert report["environment"]["DATATROVE_GPUS_ON_NODE"] == "2"


def test_nodes_per_task_runs_every_rank_on_several_nodes(
    make_executor: ExecutorFactory, tmp_path: Path, run_folder: Path
) -> None:
    result = make_executor([steps.report_to(tmp_path / "out")], tasks=2, nodes_per_task=2, workers=1).run()

    reports = read_reports(tmp_path / "out")
    assert [(report["rank"], report["environment"]["RAY_NODEID"]) for report in reports] == [
        (0, "0"),
        (0, "1"),
        (1, "0"),
        (1, "1"),
    ]
    assert [report["environment"]["DATATROVE_NODE_RANK"] for report in reports] == ["0", "1", "0", "1"]
    assert len({report["node_id"] for report in reports}) == 2, "the gang is spread over nodes"
    assert all(len(report["environment"]["DATATROVE_NODE_IPS"].split(",")) == 2 for report in reports)
    assert result.completed == 2
    assert "[NODE 0] " in (run_folder / "logs" / "task_00000.log").read_text()
    assert "[NODE 1] " in (run_folder / "attempts" / "00000" / "1.node1.log").read_text()


def test_single_node_environment(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.report_to(tmp_path)], tasks=1).run()

    (report,) = read_reports(tmp_path)
    environment = report["environment"]
    assert environment["DATATROVE_NODE_RANK"] == "-1"
    assert environment["DATATROVE_EXECUTOR"] == "RAY"
    assert environment["RAY_NODEID"] == "0"
    assert environment["RAY_NODELIST"] == environment["DATATROVE_NODE_IPS"] != ""


@pytest.mark.parametrize("nodes", [1, 2])
def test_ray_remote_kwargs_place_workers(make_executor: ExecutorFactory, tmp_path: Path, nodes: int) -> None:
    make_executor(
        [steps.report_to(tmp_path)],
        nodes_per_task=nodes,
        workers=1,
        ray_remote_kwargs={"resources": {"scanner": 1}, "label_selector": {"disk": "fast"}},
    ).run()

    reports = read_reports(tmp_path)
    assert len(reports) == nodes
    assert len({report["node_id"] for report in reports}) == 1, "only one node has scanners"


@pytest.mark.parametrize(("log_first", "logged"), [(False, False), (True, True)])
def test_log_first_shows_the_first_rank_on_the_console(
    make_executor: ExecutorFactory, tmp_path: Path, log_first: bool, logged: bool
) -> None:
    executor = make_executor([steps.talk, steps.report_to(tmp_path)], log_first=log_first, workers=1)
    executor.run()

    (report,) = read_reports(tmp_path)
    logs = Path(session_folder()) / "logs"
    console = "".join(file.read_text(errors="replace") for file in logs.glob(f"worker-*-{report['pid']}.err"))
    assert ("logging says rank 0" in console) is logged


def test_tasks_per_job_runs_ranks_side_by_side_in_processes_of_one_worker(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    executor = make_executor(
        [steps.report_to(tmp_path)],
        tasks=6,
        tasks_per_job=3,
        workers=1,
        ray_remote_kwargs={"runtime_env": {"env_vars": {"REPORT_SLEEP_S": "0.5"}}},
    )
    result = executor.run()

    reports = read_reports(tmp_path)
    assert result.completed == 6
    assert overlap(reports) == 3
    assert len({report["parent"] for report in reports}) == 1, "all are children of one worker"
    assert len({report["pid"] for report in reports}) == 3, "processes are kept for the next group"


def test_processes_of_ranks_are_no_forks_of_a_worker_with_threads(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    make_executor([steps.note_inherited(tmp_path)], tasks=8, tasks_per_job=4, workers=1).run()

    notes = [json.loads(path.read_text()) for path in tmp_path.glob("inherited-*.json")]
    assert len(notes) == 8
    # A fork would have Ray's modules, and the locks of threads that do not exist in it.
    assert {(note["has_ray"], note["is_program"]) for note in notes} == {(False, True)}


def test_workers_are_warm_and_one_runs_many_ranks(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.report_to(tmp_path)], tasks=50, workers=2).run()

    reports = read_reports(tmp_path)
    assert len(reports) == 50
    assert len({report["pid"] for report in reports}) <= 2


def test_time_does_not_count_waiting_for_resources(make_executor: ExecutorFactory) -> None:
    executor = make_executor([steps.sleep_a_little], tasks=6, workers=1, time=3)

    assert executor.run().completed == 6  # 1.8 s of work after a start of 1 to 2 s


def test_max_ranks_per_worker_replaces_the_process(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.report_to(tmp_path)], tasks=4, workers=1, max_ranks_per_worker=2).run()

    assert len({report["pid"] for report in read_reports(tmp_path)}) == 2


def test_arguments_by_position_are_those_of_datatrove(ray_cluster: object, tmp_path: Path) -> None:
    executor = RayPipelineExecutor(
        [steps.report_to(tmp_path / "out")], 2, 1, None, True, str(tmp_path / "run"), 0, 2, 0.25, 0, 1, {}, False, 1, 60
    )

    assert executor.run().completed == 2
    report = read_reports(tmp_path / "out")[0]
    assert report["resources"] == {"CPU": 2.0, "memory": 0.5 * 1024**3}


def test_pipeline_that_holds_much_data_is_shared_by_the_workers_of_a_node(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    data = bytes(64 * 1024**2)
    make_executor([steps.note_memory(tmp_path, data)], tasks=4, workers=2).run()
    make_executor([steps.note_memory(tmp_path / "small", b"")], tasks=1, logging_dir=str(tmp_path / "other")).run()

    used = {int(path.read_text()) for path in tmp_path.glob("memory-*")}
    (little,) = (int(path.read_text()) for path in (tmp_path / "small").glob("memory-*"))
    # Each rank has a copy; the packed pipeline is in shared memory, which belongs to no worker.
    assert max(used) - little < 1.5 * len(data)
