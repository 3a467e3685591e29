"""The code of a run reaches workers on nodes that have Ray and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.ray_backend.shipped_code import ShippedCode
from tests.clusters.conftest import RunScript
from tests.support.ray_processes import Head

STEPS = """
    from functools import partial
    from pathlib import Path
    import helpers
    from ray_pipeline_core import PipelineStep

    class Numbers(PipelineStep):
        name = "numbers"
        def run(self, data, rank, world_size):
            for number in range(rank, 10, world_size):
                self.stat_update("numbers")
                yield number

    def save(data, rank, world_size, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{rank}.txt").write_text(" ".join(str(helpers.square(number)) for number in data))

    def pipeline(folder):
        return [Numbers(), partial(save, folder=folder)]

    def clean_up(rank, attempt):
        helpers.square(attempt)
"""
HELPERS = """
    def square(number):
        return number**2
"""
MODULES = {"steps": STEPS, "helpers": HELPERS}


def squares(folder: Path) -> list[int]:
    """Return all numbers that ranks have written, in order."""
    return sorted(int(number) for file in folder.iterdir() for number in file.read_text().split())


ALL = [number**2 for number in range(10)]


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the result that a script has reported."""
    assert "result" in answer, f"{answer['error']}: {answer['message']}\n{answer['output']}"
    result: dict[str, Any] = answer["result"]
    return result


@pytest.mark.parametrize("way", ["by itself", "connected before", "client", "client connected before"])
def test_modules_beside_the_script_reach_a_stock_cluster(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path, way: str
) -> None:
    address = stock_cluster.client_address if way.startswith("client") else stock_cluster.address
    before = f"import ray; ray.init({address!r})" if way.endswith("before") else ""
    answer = run_script(
        f"""
        from reporting import report
        from steps import clean_up, pipeline
        from ray_pipeline_core import RayPipelineExecutor, RetryPolicy
        {before}
        report(RayPipelineExecutor(
            pipeline({str(tmp_path / "out")!r}), tasks=4, logging_dir={str(tmp_path / "run")!r},
            retry=RetryPolicy(before_retry=clean_up), address={None if before else address!r},
        ).run)
        """,
        **MODULES,
    )
    assert result_of(answer)["completed"] == 4
    assert squares(tmp_path / "out") == ALL
    assert result_of(answer)["stats"][0]["stats"]["numbers"]["total"] == 10


def test_side_by_side_ranks_and_gangs_run_on_a_stock_cluster(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = run_script(
        f"""
        from reporting import report
        from steps import pipeline
        from ray_pipeline_core import RayPipelineExecutor
        first = RayPipelineExecutor(
            pipeline({str(tmp_path / "out")!r}), tasks=4, tasks_per_job=2, logging_dir={str(tmp_path / "first")!r},
        )
        report(RayPipelineExecutor(
            "steps:pipeline", pipeline_kwargs={{"folder": {str(tmp_path / "gang")!r}}}, tasks=1, nodes_per_task=2,
            placement_strategy="PACK", depends=first, logging_dir={str(tmp_path / "second")!r},
        ).run)
        """,
        {"RAY_ADDRESS": stock_cluster.address},
        **MODULES,
    )
    assert result_of(answer)["completed"] == 1
    assert squares(tmp_path / "out") == squares(tmp_path / "gang") == ALL


def test_driver_that_is_a_ray_job_brings_its_modules(
    cluster_with_product: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = run_script(
        f"""
        from reporting import report
        from ray_pipeline_core import RayPipelineExecutor
        report(RayPipelineExecutor(
            "steps:pipeline", tasks=4, pipeline_kwargs={{"folder": {str(tmp_path / "out")!r}}},
            logging_dir={str(tmp_path / "run")!r},
        ).run)
        """,
        job_of=cluster_with_product.dashboard,
        **MODULES,
    )
    assert result_of(answer)["completed"] == 4
    assert squares(tmp_path / "out") == ALL


def test_module_that_imports_what_the_nodes_lack_is_sent_by_value(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path
) -> None:
    """As a flow file does, which imports Prefect: with a working_dir, the nodes have the file, and can't import it."""
    answer = run_script(
        f"""
        from reporting import report
        from flow_file import step
        from ray_pipeline_core import RayPipelineExecutor
        report(RayPipelineExecutor(
            [step], logging_dir={str(tmp_path)!r}, runtime_env={{"working_dir": "."}}, address={stock_cluster.address!r}
        ).run)
        """,
        flow_file="""
        import pyarrow
        def step(data, rank, world_size):
            print("it runs")
        """,
    )
    assert result_of(answer)["completed"] == 1
    assert "it runs" in (tmp_path / "logs" / "task_00000.log").read_text()


def test_package_that_the_nodes_lack_is_named_in_one_sentence(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = run_script(
        f"""
        from reporting import report
        import pyarrow
        from ray_pipeline_core import RayPipelineExecutor
        def save(data, rank, world_size, kind=pyarrow.int64()):
            pass
        report(RayPipelineExecutor([save], logging_dir={str(tmp_path)!r}, address={stock_cluster.address!r}).run)
        """
    )
    assert answer["error"] == "PipelineLoadError"
    assert "No module named 'pyarrow'" in answer["message"]
    assert "the worker ran on node " in answer["message"]
    assert "\n" not in answer["message"]


def test_module_that_a_step_imports_when_it_runs_travels_with_a_local_working_dir(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path
) -> None:
    modules = {
        "one": 'WORD = "one"',
        "lazy": """
            def write(data, rank, world_size, path):
                import one
                open(path, "w").write(one.WORD)
        """,
    }
    answer = run_script(
        f"""
        import os
        from functools import partial
        from reporting import report
        from lazy import write
        from ray_pipeline_core import RayPipelineExecutor
        here = os.path.dirname(os.path.abspath(__file__))
        os.mkdir("other")
        open("other/one.py", "w").write("WORD = 'other'")
        first = RayPipelineExecutor(
            [partial(write, path={str(tmp_path / "first")!r})], logging_dir={str(tmp_path / "run1")!r},
            runtime_env={{"working_dir": here}},
        )
        report(RayPipelineExecutor(
            [partial(write, path={str(tmp_path / "second")!r})], logging_dir={str(tmp_path / "run2")!r}, depends=first,
            runtime_env={{"py_modules": ["other/one.py"], "excludes": ["*.csv"]}},
        ).run)
        """,
        {"RAY_ADDRESS": stock_cluster.address},
        **modules,
    )
    assert result_of(answer)["completed"] == 1
    assert ((tmp_path / "first").read_text(), (tmp_path / "second").read_text()) == ("one", "other")


def test_folder_that_is_missing_is_named_before_anything_runs(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = run_script(
        f"""
        from reporting import report
        from ray_pipeline_core import RayPipelineExecutor
        report(RayPipelineExecutor(
            [print], logging_dir={str(tmp_path)!r}, address={stock_cluster.address!r},
            runtime_env={{"working_dir": "/no/such/folder"}},
        ).run)
        """
    )
    assert (answer["error"], answer["retryable"]) == ("ConfigError", False)
    assert "runtime_env['working_dir']='/no/such/folder': must exist where run() is called" in answer["message"]
    assert not (tmp_path / "executor.json").exists()


def test_what_travels_is_small() -> None:
    assert len(ShippedCode(is_embedded=False).archive()) <= 1_000_000
