"""The setup of a run's workers: resources, pipeline, settings and attempt numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.storage.attempt_history import AttemptNumbers
from ray_pipeline_core.worker.rank_attempt import RankSettings


@dataclass(frozen=True)
class WorkerSetup:
    """The setup of a run's workers.

    Attributes:
        config: the run's parameters, among them the resources of a worker.
        packed_pipeline: the pickled pipeline.
        settings: the settings that all ranks share.
        attempt_numbers: the numbers of the attempts over all runs of the run folder.
    """

    config: RunConfig
    packed_pipeline: bytes
    settings: RankSettings
    attempt_numbers: AttemptNumbers
