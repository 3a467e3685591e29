"""Compares runs whose workers and nodes are killed at random with a run without faults.

Usage: `python -m tests.chaos.soak`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy
from tests.chaos.background_run import BackgroundRun
from tests.chaos.havoc import NODE_ARGUMENTS, Faults, Havoc
from tests.chaos.soak_steps import make_pipeline
from tests.conftest import QUICK_CHECKS
from tests.support.leftovers import living_actors, living_placement_groups
from tests.support.nodes import add_node
from tests.support.waiting import wait_until_none

PATIENT = RetryPolicy(max_retries=1000, max_preemptions=1000, backoff_s=0.1, backoff_max_s=1)
SHAPES: tuple[dict[str, Any], ...] = ({}, {"tasks_per_job": 3}, {"nodes_per_task": 2})
"""Parameters of the runs; the seed modulo their number selects one."""
BEFORE = "before"
"""The folder of the shorter run."""


@dataclass(frozen=True)
class SoakFigures:
    """The faults of a seed and what they cost."""

    seed: int
    shape: dict[str, Any]
    faults: Faults
    retries: int
    preemptions: int
    duration_s: float

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in asdict(self.faults).items())
        cost = f"retries {self.retries}, preemptions {self.preemptions}, {self.duration_s:.0f} s"
        return f"seed {self.seed} {self.shape or ''}: {faults}; {cost}"


def make_chain(folder: Path, ranks: int, **shape: Any) -> RayPipelineExecutor:
    """Return an executor that takes over the workers of a shorter run of the same pipeline."""
    return make_executor(folder, ranks, depends=make_executor(folder / BEFORE, ranks // 6, **shape), **shape)


def make_executor(folder: Path, ranks: int, **parameters: Any) -> RayPipelineExecutor:
    """Return an executor of the soak's pipeline on the soak's nodes."""
    return RayPipelineExecutor(
        make_pipeline(folder),
        tasks=ranks,
        logging_dir=str(folder / "run"),
        mem_per_cpu_gb=0.1,
        ray_remote_kwargs={"resources": {"soak": 1}},
        retry=PATIENT,
        **parameters,
    )


def soak(cluster: Any, nodes: list[Any], folder: Path, ranks: int, seed: int) -> SoakFigures:
    """Run all ranks while workers and nodes are killed; `nodes` are those that may be removed."""
    started_s, shape = time.monotonic(), SHAPES[seed % len(SHAPES)]
    havoc = Havoc(cluster, nodes, [folder / BEFORE / "reports", folder / "reports"], seed)
    with BackgroundRun(make_chain(folder, ranks, **shape)) as run:
        havoc.wreak(run)
        result = run.result()
    assert (result.completed, result.failed) == (ranks, ())
    wait_until_none(living_actors, "actors")
    wait_until_none(living_placement_groups, "placement groups")
    assert havoc.workers_left() == set(), "a worker outlives the run"
    duration_s = time.monotonic() - started_s
    before = json.loads((folder / BEFORE / "run" / "result.json").read_text())
    retries, preemptions = (before[key] + getattr(result, key) for key in ("retries", "preemptions"))
    return SoakFigures(seed, shape, havoc.faults, retries, preemptions, duration_s)


def check_same(folder: Path, faultless: Path) -> None:
    """Raise `AssertionError` unless outputs, markers and merged stats equal those of a chain without faults."""
    _check_run(folder, faultless)
    _check_run(folder / BEFORE, faultless / BEFORE)


def _check_run(folder: Path, faultless: Path) -> None:
    for what in (outputs, markers, line_counts, merged_stats):
        found, expected = what(folder), what(faultless)
        differences = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
        assert found == expected, f"{what.__name__} differ from those of a run without faults: {differences[:2]}"
    assert not list((folder / "run").glob("run.lock*")), "a lease is left"
    assert marked_attempts(folder) == completed_attempts(folder) == writing_attempts(folder)


def outputs(folder: Path) -> dict[str, str]:
    """Return the outputs of the ranks, by file."""
    return {path.name: path.read_text() for path in (folder / "out").glob("*.json")}


def markers(folder: Path) -> list[str]:
    """Return the names of all markers."""
    return sorted(os.listdir(folder / "run" / "completions"))


def line_counts(folder: Path) -> dict[str, int]:
    """Return the number of lines that each rank has written while it ran."""
    return {path.name: len(path.read_text().splitlines()) for path in (folder / "lines").iterdir()}


def marked_attempts(folder: Path) -> dict[int, set[int]]:
    """Return the attempt whose marker each rank has."""
    completions = (folder / "run" / "completions").iterdir()
    return {int(path.name): {int(path.read_text())} for path in completions}


def completed_attempts(folder: Path) -> dict[int, set[int]]:
    """Return the attempts that have completed, by the history."""
    completed: dict[int, set[int]] = {}
    for line in (folder / "run" / "attempts" / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["outcome"] == "completed":
            completed.setdefault(record["rank"], set()).add(record["attempt"])
    return completed


def writing_attempts(folder: Path) -> dict[int, set[int]]:
    """Return the attempts that have written the lines of each rank: more than one if they were mixed."""
    lines = {int(path.name): path.read_text().splitlines() for path in (folder / "lines").iterdir()}
    return {rank: {int(line.split()[0]) for line in written} for rank, written in lines.items()}


def merged_stats(folder: Path) -> list[Any]:
    """Return the merged stats and those of each rank, without times."""
    files = [folder / "run" / "stats.json", *sorted((folder / "run" / "stats").iterdir())]
    return [[file.name, _without_times(json.loads(file.read_text()))] for file in files]


def _without_times(stats: list[dict[str, Any]]) -> list[Any]:
    return [(step["name"], _rounded(step["stats"])) for step in stats]


def _rounded(value: Any) -> Any:
    """Round numbers, since the last digits of a mean depend on the order in which ranks completed."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


@contextmanager
def soak_nodes(cluster: Any) -> Iterator[list[Any]]:
    """Add two nodes, which the soak may replace, and remove the nodes of the soak at the end."""
    nodes = [add_node(cluster, **NODE_ARGUMENTS) for _ in range(2)]
    try:
        yield nodes
    finally:
        for node in nodes:
            cluster.remove_node(node)


def main() -> int:
    """Run the soak with several seeds on a new cluster, and return 1 if any of them fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="*", default=random.SystemRandom().sample(range(10_000), 10))
    options = parser.parse_args()
    logging.getLogger("ray_pipeline_core").setLevel(logging.ERROR)  # retries are only counted
    print("seeds:", *options.seeds, flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name, own_cluster() as cluster, soak_nodes(cluster) as nodes:
        make_chain(Path(name) / "faultless", options.ranks).run()
        failed = [seed for seed in options.seeds if not _passes(cluster, nodes, Path(name), options.ranks, seed)]
    print("failed seeds:", *failed or ["none"])
    return 1 if failed else 0


def _passes(cluster: Any, nodes: list[Any], folder: Path, ranks: int, seed: int) -> bool:
    try:
        figures = soak(cluster, nodes, folder / str(seed), ranks, seed)
        check_same(folder / str(seed), folder / "faultless")
    except Exception as error:  # noqa: BLE001 - the other seeds are run as well
        print(f"seed {seed} FAILED: {type(error).__name__}: {error}", flush=True)
        traceback.print_exc(file=sys.stdout)
        return False
    print(figures, flush=True)
    return True


@contextmanager
def own_cluster() -> Iterator[Any]:
    """Start a cluster of one node, to which others can be added."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {
        "num_cpus": 2,
        "include_dashboard": False,
        "dashboard_port": None,
        "object_store_memory": 100 * 1024**2,
    }
    head["_system_config"] = QUICK_CHECKS
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main())
