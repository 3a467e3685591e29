"""A flow over inputs that grow: each flow run does only what changed, and what depends on it."""

from __future__ import annotations

import json
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient

from prefect_integration import ray_pipeline_flow
from ray_pipeline_core import InputFiles
from tests.prefect_integration.executors import MakeExecutor, note_in, times_run


def test_next_flow_run_reads_what_is_new_and_runs_children_again(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).touch()
    parts = make_named_executor("parts", note_in(tmp_path / "ran"), tasks=2, inputs=InputFiles(source))
    total = make_named_executor("total", ["x"], note_in(tmp_path / "total-ran"), tasks=1, depends=parts)
    built = ray_pipeline_flow(total)

    for _ in range(2):
        built()
        assert times_run(tmp_path / "ran") == {0: 1, 1: 1}
        assert times_run(tmp_path / "total-ran") == {0: 1}
    (source / "c").touch()
    assert built()["reasons"] == {"parent ran": 1}
    assert times_run(tmp_path / "ran") == {0: 1, 1: 1, 2: 1}
    assert times_run(tmp_path / "total-ran") == {0: 2}
    assert json.loads((tmp_path / "parts/result.json").read_text())["reasons"] == {"new input": 1}
