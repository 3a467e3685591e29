"""What the driver of a job does on the cluster, once this package can be imported there."""

from __future__ import annotations

import importlib
import logging
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_pipeline_core.driver.planning import RunOptions
from ray_pipeline_core.errors import PipelineLoadError, RayPipelineError, RunFolderLockedError
from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
from ray_pipeline_core.jobs.endings import described_error
from ray_pipeline_core.jobs.records import RecordWriter
from ray_pipeline_core.redaction import cause_to_show, get_logger, hide_secrets, redact
from ray_pipeline_core.result import RunPlan, RunResult

logger = get_logger(__name__)

PROGRESS_INTERVAL_S = 3.0
"""The shortest time between two records of the progress, in seconds."""
LEASE_INTERVAL_S = 5.0
"""The time between two tries for a run folder that another run has, in seconds."""


def run_job(folder: Path, header: Mapping[str, Any]) -> int:
    """Run a job, tell its log how it ended, and return the exit code of the process.

    Args:
        folder: has the payload.
        header: what the payload says of itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    hide_secrets(header["secrets"])
    records = RecordWriter(header["nonce"])
    try:
        executor, options = load_job(folder, header)
        result = _run(executor, options, records, header["lease_wait_s"])
    except BaseException as error:  # noqa: BLE001 - the submitter is to raise it
        _tell(error)
        records.write("error", described_error(error))
        return 1
    records.write("result", result.to_dict())
    return 0


def _tell(error: BaseException) -> None:
    if isinstance(error, RayPipelineError):
        print(f"{type(error).__name__}: {error}", flush=True)
    else:
        print(redact("".join(traceback.format_exception(error))), flush=True)


def _run(executor: RayPipelineExecutor, options: RunOptions, records: RecordWriter, lease_wait_s: float) -> RunResult:
    observer = JobObserver(records)
    of_others = RunOptions(job=options.job)

    def options_of(node: RayPipelineExecutor) -> RunOptions:
        own = options if node is executor else of_others
        return replace(own, observers=(*own.observers, observer))

    deadline_s = time.monotonic() + lease_wait_s
    while True:
        try:
            return executor.run(options_of=options_of)
        except RunFolderLockedError as error:
            if time.monotonic() >= deadline_s:
                raise
            logger.info("waiting for the run folder: %s", error)
        time.sleep(min(LEASE_INTERVAL_S, max(0.0, deadline_s - time.monotonic())))


class JobObserver(RunObserver):
    """Tells the log of the job how its runs go.

    Args:
        records: writes into the log.
        clock: returns the time in seconds.
    """

    def __init__(self, records: RecordWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._clock = clock
        self._written_s = float("-inf")
        self._newest: Progress | None = None

    def on_run_started(self, plan: RunPlan) -> None:
        """Tell the warnings."""
        if plan.warnings:
            self._records.write("warnings", list(plan.warnings))

    def on_progress(self, progress: Progress) -> None:
        """Tell the progress, from time to time."""
        self._newest = progress
        if self._clock() - self._written_s >= PROGRESS_INTERVAL_S:
            self._write()

    def on_run_finished(self, result: RunResult) -> None:
        """Tell the last progress."""
        self._write()

    def _write(self) -> None:
        progress, self._newest = self._newest, None
        if progress is not None:
            self._written_s = self._clock()
            self._records.write("progress", progress.to_dict())


def load_job(folder: Path, header: Mapping[str, Any]) -> tuple[RayPipelineExecutor, RunOptions]:
    """Return the executor that was submitted, and the options of its run.

    Raises:
        PipelineLoadError: it can't be read here.
    """
    try:
        loaded = _loaded(folder, header)
        _provide_factories(loaded[0], folder, header)
        return loaded
    except PipelineLoadError:
        raise
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        raise PipelineLoadError(
            f"the job can't be read on the cluster: {type(error).__name__}: {error}; install its modules there, or "
            "send them with the job: your own with runtime_env={'working_dir': '.'}, packages with "
            "runtime_env={'pip': [...]}"
        ) from cause_to_show(error)


def _loaded(folder: Path, header: Mapping[str, Any]) -> tuple[RayPipelineExecutor, RunOptions]:
    try:
        return pickle.loads((folder / "executor.pickle").read_bytes())  # type: ignore[no-any-return]
    except Exception:  # a module of the user's that is not here, or another one of its name
        if not (folder / "executor_with_code.pickle").exists():
            raise
        _check_python(header, "executor_with_code")
        return pickle.loads((folder / "executor_with_code.pickle").read_bytes())  # type: ignore[no-any-return]


def _check_python(header: Mapping[str, Any], pickled: str) -> None:
    own, theirs = list(sys.version_info[:2]), header["python"]
    if own != theirs and header["needs_python"][pickled]:
        raise PipelineLoadError(
            f"the cluster lacks a module of the pipeline, and runs Python {own[0]}.{own[1]}, which can't read the code "
            f"of Python {theirs[0]}.{theirs[1]} that came with the job; use the same version on both sides, or send "
            "the module with runtime_env={'working_dir': '.'}"
        )


def _provide_factories(executor: RayPipelineExecutor, folder: Path, header: Mapping[str, Any]) -> None:
    """Let the pipelines be loaded whose modules are not here, by the functions that came with the job."""
    if "factories" not in header["needs_python"]:
        return
    paths = {node.pipeline for node in topological_order(executor) if isinstance(node.pipeline, str)}
    missing = [path for path in sorted(paths) if not _is_importable(path.partition(":")[0])]
    if not missing:
        return
    _check_python(header, "factories")
    factories = pickle.loads((folder / "factories.pickle").read_bytes())
    for path in missing:
        if path in factories:
            _provide(path, factories[path])


def _is_importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit):
        logger.debug("module %s can't be imported here", module, exc_info=True)
        return False
    return True


def _provide(path: str, factory: Any) -> None:
    """Put a module in place that has the factory alone, so that all else of it is sent to the workers by value."""
    module, _, attribute = path.partition(":")
    logger.info("module %s is not on the cluster: its code came with the job", module)
    provided = sys.modules.setdefault(module, ModuleType(module))
    setattr(provided, attribute.partition(".")[0], factory)
