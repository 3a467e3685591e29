"""What is packed for a job."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, PipelineLoadError, RayPipelineExecutor, RunOptions
from ray_pipeline_core.jobs.driver_run import load_job
from ray_pipeline_core.jobs.identity import fingerprint
from ray_pipeline_core.jobs.packages import LocalFiles
from ray_pipeline_core.jobs.payload import MODULE, JobFiles, JobRequest, pack_job


def _executor(folder: Path, pipeline: Any = "tests.jobs.steps:numbers", **arguments: Any) -> RayPipelineExecutor:
    return RayPipelineExecutor(pipeline, tasks=2, logging_dir=str(folder / "run"), **arguments)


def _packed(executor: RayPipelineExecutor, **runtime_env: Any) -> JobFiles:
    return pack_job(JobRequest(executor, RunOptions(skip_completed=False), runtime_env, 0, "job-1", "n1"))


def _unpacked(files: JobFiles, folder: Path) -> tuple[RayPipelineExecutor, RunOptions, dict[str, Any]]:
    zipfile.ZipFile(io.BytesIO(files.packages[0].content)).extractall(folder)
    header = json.loads((folder / MODULE / "payload.json").read_text())
    executor, options = load_job(folder / MODULE, header)
    return executor, options, header


def _names(content: bytes) -> list[str]:
    return sorted(zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_graph_comes_out_as_it_went_in(tmp_path: Path) -> None:
    first = _executor(tmp_path / "a")
    left, right = _executor(tmp_path / "b", depends=first), _executor(tmp_path / "c", depends=[first])
    last = _executor(tmp_path / "d", depends=[left, right], address="ray://elsewhere:1")
    executor, options, _ = _unpacked(_packed(last), tmp_path)
    assert executor.dependencies[0].dependencies[0] is executor.dependencies[1].dependencies[0]
    assert (executor.address, executor.tasks, options.skip_completed, options.job) == (None, 2, False, "job-1")
    assert last.address == "ray://elsewhere:1"


def test_variables_are_in_the_payload_and_not_where_ray_shows_them(tmp_path: Path) -> None:
    executor = _executor(tmp_path, runtime_env={"env_vars": {"A": "of the executor"}, "pip": ["humanize"]})
    files = _packed(executor, env_vars={"A": "of the job", "B": "s3cret"})
    assert files.runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert files.runtime_env["pip"] == ["humanize"]
    loaded, _, header = _unpacked(files, tmp_path)
    assert header["env_vars"] == {"A": "of the job", "B": "s3cret"}
    assert loaded.runtime_env is not None
    assert loaded.runtime_env["env_vars"] == {"A": "of the executor", "B": "s3cret"}


def test_factory_needs_no_equal_python_and_a_lambda_does(tmp_path: Path) -> None:
    assert not _unpacked(_packed(_executor(tmp_path)), tmp_path)[2]["needs_python"]["executor"]
    pickled = _packed(_executor(tmp_path, [lambda data, rank, world_size: None]))
    assert _unpacked(pickled, tmp_path / "other")[2]["needs_python"]["executor"]


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("own_steps.good:pipelin", "AttributeError: module 'own_steps.good' has no attribute 'pipelin'"),
        ("own_steps.goood:pipeline", "ModuleNotFoundError: No module named 'own_steps.goood'"),
        ("own_steps.needs:pipeline", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("own_steps.wrong:pipeline", "SyntaxError: "),
        ("own_folder.goood:pipeline", "ModuleNotFoundError: No module named 'own_folder.goood'"),
        ("own_steps.good:pipeline", None),
        ("own_folder.good:pipeline", None),
        ("module_of_the_cluster.steps:pipeline", None),
    ],
)
def test_factory_that_is_not_sent_is_warned_of_if_its_module_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pipeline: str, reason: str | None
) -> None:
    package = tmp_path / "own_steps"
    package.mkdir()
    good = "def pipeline():\n    return [iter]\n"
    for name, code in {
        "__init__": "",
        "good": good,
        "needs": f"import no_such_library\n{good}",
        "wrong": "1 +",
    }.items():
        (package / f"{name}.py").write_text(code)
    (tmp_path / "own_folder").mkdir()
    (tmp_path / "own_folder" / "good.py").write_text(good)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("own_")]:
        monkeypatch.delitem(sys.modules, name)
    _packed(_executor(tmp_path, pipeline))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (reason is not None)
    assert reason is None or f"here it raises {reason}" in warnings[0]


def test_what_can_not_be_pickled_is_named(tmp_path: Path) -> None:
    class Lock:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __call__(self, data: Any, rank: int, world_size: int) -> None:
            """Do nothing."""

    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(PipelineLoadError, match=r"pipeline.*file.* can't be pickled"),
    ):
        _packed(_executor(tmp_path, [Lock(file)]))


def test_local_folders_become_packages_without_what_git_ignores(tmp_path: Path) -> None:
    for name in ("own/__init__.py", "own/data/large.bin", "own/a.log", "own/sub/b.tmp", "own/sub/c.py", "own/.git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "own/.gitignore").write_text("*.log\n")
    (tmp_path / "own/sub/.gitignore").write_text("*.tmp\n")
    files = LocalFiles()
    environment = {"working_dir": tmp_path / "own", "py_modules": [str(tmp_path / "own"), "s3://x/y.zip"]}
    replaced = files.replaced({**environment, "excludes": ["data/"]})
    assert replaced == LocalFiles().replaced({**environment, "excludes": ["data/"]})
    working_dir, module = (
        files.packages[uri.removeprefix("gcs://")] for uri in (replaced["working_dir"], replaced["py_modules"][0])
    )
    assert _names(working_dir.content) == [".gitignore", "__init__.py", "sub/.gitignore", "sub/c.py"]
    assert _names(module.content) == ["own/.gitignore", "own/__init__.py", "own/sub/.gitignore", "own/sub/c.py"]
    assert replaced["py_modules"][1] == "s3://x/y.zip"
    assert "excludes" not in replaced


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be uploaded"):
        _packed(_executor(tmp_path), working_dir=str(tmp_path / "missing"))


def test_fingerprint_tells_executors_apart_and_hides_nothing_new(tmp_path: Path) -> None:
    one = fingerprint(_executor(tmp_path, pipeline_kwargs={"count": 1}))
    assert one == fingerprint(_executor(tmp_path, pipeline_kwargs={"count": 1}))
    assert one != fingerprint(_executor(tmp_path, pipeline_kwargs={"count": 2}))
    assert one != fingerprint(_executor(tmp_path / "other", pipeline_kwargs={"count": 1}))
