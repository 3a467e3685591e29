"""A short soak; `make soak` runs the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.soak import check_same, make_chain, soak, soak_nodes

RANKS = 24


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "fault"), [(20, "workers_killed"), (249, "nodes_cut_off")])
def test_outputs_markers_and_stats_are_the_same_whatever_dies(
    ray_cluster: Any, tmp_path: Path, seed: int, fault: str
) -> None:
    with soak_nodes(ray_cluster) as nodes:
        make_chain(tmp_path / "faultless", RANKS).run()
        figures = soak(ray_cluster, nodes, tmp_path / "soaked", RANKS, seed)
    print(figures)

    assert getattr(figures.faults, fault)
    check_same(tmp_path / "soaked", tmp_path / "faultless")
