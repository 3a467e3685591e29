"""Decides what a run does for the request of an orchestrator, by what the run folder remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_pipeline_core.driver.folder_state import FolderState
from ray_pipeline_core.driver.planning import RunSpec
from ray_pipeline_core.driver.rerun import newest_requests, settled_requests
from ray_pipeline_core.errors import RunFolderMismatchError


def as_requested(spec: RunSpec) -> RunSpec:
    """Return the run with the `skip_completed` that answers its request; call this under the folder's lease."""
    if spec.rerun is None:
        return spec
    requests = newest_requests(spec.folder)
    if spec.rerun.repeats(requests):
        return spec.with_skip_completed(True)
    return spec.with_skip_completed(spec.config.skip_completed and not spec.rerun.runs_all(requests))


def requests_to_store(spec: RunSpec, state: FolderState) -> list[Mapping[str, Any]]:
    """Return the requests for `executor.json`; call this while the folder has the result of the run before."""
    settled = settled_requests(spec.folder, state.requests)
    return list((settled if spec.rerun is None else spec.rerun.added_to(settled)).values())


def check_answer(spec: RunSpec, state: FolderState, pending: Sequence[int]) -> None:
    """Check that a run which an orchestrator has asked for does not take other outputs for its own.

    Raises:
        RunFolderMismatchError: it has nothing to do, although the completed ranks ran with other parameters.
    """
    if spec.rerun is None or pending:
        return
    differences = [
        sentence
        for each in state.older
        for sentence in spec.fingerprint.changed_parameters({"steps": each.steps}, sorted(each.ranks))
    ]
    if differences:
        raise RunFolderMismatchError(
            f"Run folder {spec.folder.url} has all of its ranks completed, so nothing would run, but with other "
            f"parameters: {'; and '.join(differences)}. Run all ranks again with rerun='all' or skip_completed=False, "
            "use another logging_dir, or take the former parameters. Nothing was changed."
        )
