"""The guide's snippets run, and its lists of names and extras are complete."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunIncompleteError, RunResult
from ray_pipeline_core.testing import run_in_process
from tests.support.message_servers import HookServer, MailServer, serving
from tests.support.storage import s3_options

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/guide.md"
EXTRAS = ("airflow", "prefect", "s3", "datatrove")
TEXTS = 6


def snippets() -> dict[str, str]:
    """The code of each snippet, by the file name in the comment above it."""
    return dict(re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all snippets and their input, on the import path; they write there instead of to /tmp."""
    for name, code in snippets().items():
        (tmp_path / name).write_text(code.replace('"/tmp/words', f'"{tmp_path}'))
    (tmp_path / "texts").mkdir()
    for number in range(1, TEXTS + 1):
        (tmp_path / f"texts/text{number}.txt").write_text(f"to be or not to be {number}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in snippets():
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let executors run in this process."""

    def run(executor: RayPipelineExecutor) -> RunResult:
        return run_in_process(executor)

    monkeypatch.setattr(RayPipelineExecutor, "run", run)


def run_snippet(folder: Path, name: str) -> dict[str, Any]:
    """Run a snippet as a script in this process."""
    return runpy.run_path(str(folder / name), run_name="__main__")


def run_python(folder: Path, *arguments: str, **variables: str) -> str:
    """Run Python in `folder`, and returns what it prints, standard error included."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# --- snippets ---


def test_guide_has_the_snippets_that_are_tested() -> None:
    assert sorted(snippets()) == [
        "count_words.py",
        "on_a_cluster.py",
        "run_on_s3.py",
        "stop_from_code.py",
        "test_words.py",
        "tolerant_report.py",
        "which_file.py",
        "with_log_lines.py",
        "with_notifications.py",
        "with_observer.py",
        "word_steps.py",
    ]


def test_counting_prints_the_plan_and_the_result(
    folder: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run_snippet(folder, "count_words.py")

    printed = re.sub(r"in [\d.]+ s", "in 9.4 s", capsys.readouterr().out)
    # Another test may have left this process connected to a cluster.
    printed = re.sub(r"\d+ group\(s\) at once", "unknown", printed)
    assert printed.replace(str(folder), "/tmp/words") in GUIDE.read_text()
    assert len(list((folder / "counts").iterdir())) == 3


def test_code_travels_with_a_connection_to_a_running_cluster(folder: Path, ray_cluster: Cluster) -> None:
    printed = run_python(folder, "on_a_cluster.py", RAY_ADDRESS=str(ray_cluster.address))
    assert "words: 3/3 ranks completed" in printed


def test_log_lines_show_progress_without_a_terminal(folder: Path) -> None:
    run = "import ray_pipeline_core as core, ray_pipeline_core.testing as testing, runpy;"
    run += "core.RayPipelineExecutor.run = lambda executor: testing.run_in_process(executor);"
    run += "runpy.run_path('with_log_lines.py', run_name='__main__')"
    printed = run_python(folder, "-c", run)
    assert "INFO words: 3 of 3 ranks to run" in printed
    assert "INFO words: 3/3 ranks completed" in printed


def test_observer_reports_the_end(folder: Path, without_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippet(folder, "with_observer.py")
    assert f"hello: 2 of 2 ranks in {folder}/hello" in capsys.readouterr().out


def test_notifications_are_sent_at_the_end_and_at_the_first_failure(
    folder: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, mail = HookServer(), MailServer()
    monkeypatch.setenv("HOOK_URL", hook.url)
    script = folder / "with_notifications.py"
    script.write_text(script.read_text().replace("2525", str(mail.port)))
    (folder / "counts").touch()  # where a folder should be
    with serving(hook), serving(mail), pytest.raises(RunIncompleteError):
        run_snippet(folder, script.name)
    assert [content["event"] for _, _, content in hook.posts] == ["run_finished"]
    assert [recipients for recipients, _ in mail.mails] == [["me@example.com"]]


def test_failure_leads_to_the_file(folder: Path, without_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippet(folder, "which_file.py")
    assert f"```\n{capsys.readouterr().out}```".replace(str(folder), "/tmp/words") in GUIDE.read_text()


def test_report_runs_whether_the_counting_failed_or_not(
    folder: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run_snippet(folder, "tolerant_report.py")
    assert "warning:" not in capsys.readouterr().out
    (folder / "run/completions/00001").unlink()
    (folder / "counts").rename(folder / "moved")
    (folder / "counts").touch()  # where a folder should be
    del sys.modules["count_words"]  # its executor has run in this process, and would not be run again

    run_snippet(folder, "tolerant_report.py")

    assert "warning: run_on_dependency_fail: executor 'report' was run although 'words'" in capsys.readouterr().out


def test_stop_ends_the_run_of_another_thread(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # With every rank completed, a run that is not stopped in time has nothing to start either.
    module = importlib.import_module("count_words")
    run_in_process(module.executor)
    run_snippet(folder, "stop_from_code.py")
    assert re.search(r"stopped: run 'words' was stopped|words: 3/3 ranks completed", capsys.readouterr().out)


def test_run_folder_is_on_s3_with_keys_and_endpoint(
    folder: Path, without_ray: None, s3_endpoint: str, s3_bucket: str
) -> None:
    options = s3_options(s3_endpoint)
    code = (folder / "run_on_s3.py").read_text()
    for shown, real in (
        ("AKIA...", options["key"]),
        ('"..."', f'"{options["secret"]}"'),
        ("https://s3.example.com", s3_endpoint),
        ("my-bucket", s3_bucket),
    ):
        assert shown in code
        code = code.replace(shown, real)
    (folder / "run_on_s3.py").write_text(code)

    executor = run_snippet(folder, "run_on_s3.py")["executor"]

    assert executor.logging_dir.list_files("completions") == [
        "completions/00000",
        "completions/00001",
        "completions/00002",
    ]
    assert options["secret"].encode() not in executor.logging_dir.read_bytes("executor.json")


def test_example_of_a_test_passes(folder: Path) -> None:
    assert "2 passed" in run_python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_words.py")


# --- lists ---


def listed_names(module: str) -> set[str]:
    """The names in the first column of the table below the module's heading."""
    section = GUIDE.read_text().split(f"\n### `{module}`\n", 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def public_names(module: ModuleType) -> set[str]:
    """The module's `__all__`; without one, what it defines itself under a name for others."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return set(declared)
    members = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name for name, value in members.items() if getattr(value, "__module__", None) == module.__name__}


@pytest.mark.parametrize(
    "name",
    [
        "ray_pipeline_core",
        "ray_pipeline_core.testing",
        "airflow_provider",
        "airflow_provider.hooks.ray",
        "airflow_provider.links.ray_pipeline",
        "airflow_provider.operators.ray_pipeline",
        "airflow_provider.task_group",
        "prefect_integration",
    ],
)
def test_every_public_name_is_listed_and_no_other(name: str) -> None:
    assert listed_names(name) == public_names(importlib.import_module(name))


def test_requirements_of_the_extras_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*?) \| .* \|$", GUIDE.read_text(), re.MULTILINE))
    wanted = {
        extra: re.findall(r'"([^"]+)"', found[1])
        for extra in EXTRAS
        if (found := re.search(rf"^{extra} = \[(.*)\]$", project, re.MULTILINE))
    }
    assert {extra: re.findall(r"`([^`]+)`", rows[extra]) for extra in EXTRAS} == wanted


def test_versions_are_those_of_the_project() -> None:
    project, guide = (ROOT / "pyproject.toml").read_text(), " ".join(GUIDE.read_text().split())
    python = re.search(r'^requires-python = ">=(.+)"$', project, re.MULTILINE)
    assert python is not None
    assert f"Python {python[1]} or newer" in guide
    assert '"ray[default]>=2.49"' in project
    tested = dict(re.findall(r'"([\w-]+)(?:\[[^\]]*\])?==([\d.]+)"', project))
    versions = [tested[name] for name in ("ray", "apache-airflow", "prefect", "datatrove")]
    assert "Ray {}, Airflow {}, Prefect {} and datatrove {};".format(*versions) in guide
