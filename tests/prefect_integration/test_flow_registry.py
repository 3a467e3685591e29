"""Flows that a function has made are found again in the file that made them."""

from __future__ import annotations

import gc
import textwrap
from pathlib import Path
from typing import Any

import pytest
from prefect.flows import load_flow_from_entrypoint

from prefect_integration.flow_registry import FlowRegistry

FILE = """
from prefect_integration import ray_pipeline_flow
from ray_pipeline_core import RayPipelineExecutor

def make(name):
    return ray_pipeline_flow(RayPipelineExecutor([print], name=name, logging_dir={folder!r} + name), name="count words")

first, second = make("first"), make("second")
entrypoints = [flow._entrypoint for flow in (first, second)]
"""


def test_two_flows_of_one_name_are_two(tmp_path: Path) -> None:
    file = tmp_path / "flow_file.py"
    file.write_text(textwrap.dedent(FILE).format(folder=f"{tmp_path}/"))
    found: list[Any] = [
        load_flow_from_entrypoint(f"{file}:ray_pipeline_flows.{name}") for name in ("count_words", "count_words_2")
    ]
    assert [executors_of(flow) for flow in found] == [["first"], ["second"]]


def executors_of(flow: Any) -> list[str]:
    captured = dict(zip(flow.fn.__code__.co_freevars, flow.fn.__closure__, strict=True))
    return [spec.name for spec in captured["specs"].cell_contents]


def test_flow_that_nothing_holds_is_forgotten() -> None:
    from prefect import flow

    registry = FlowRegistry()

    def add() -> str:
        def do_nothing() -> None: ...

        return registry.add(flow(name="nightly")(do_nothing))

    assert add() == "nightly"
    gc.collect()
    assert add() == "nightly"
    gc.collect()
    with pytest.raises(AttributeError, match="no flow is called 'nightly' in this file"):
        registry.nightly  # noqa: B018
