"""The setup of a run's workers: resources, pipeline, settings and attempt numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.pipeline import Step, pack_function, pack_pipeline
from ray_pipeline_core.storage.attempt_history import AttemptNumbers
from ray_pipeline_core.worker.rank_attempt import RankSettings


@dataclass(frozen=True)
class WorkerSetup:
    """The setup of a run's workers.

    Attributes:
        config: the run's parameters, among them the resources of a worker.
        steps: the loaded pipeline.
        packed_pipeline: the pickled pipeline.
        settings: the settings that all ranks share.
        attempt_numbers: the numbers of the attempts over all runs of the run folder.
    """

    config: RunConfig
    steps: Sequence[Step]
    packed_pipeline: bytes
    settings: RankSettings
    attempt_numbers: AttemptNumbers

    def with_modules_by_value(self, modules: Collection[str]) -> WorkerSetup:
        """Return the same setup for workers that can't import these modules: their code is sent along.

        Raises:
            PipelineLoadError: what would be sent can't be pickled.
        """
        before_retry = self.config.retry.before_retry
        packed = pack_function(before_retry, "RetryPolicy.before_retry", modules) if before_retry else None
        settings = replace(self.settings, before_retry=packed)
        return replace(self, packed_pipeline=pack_pipeline(self.steps, modules), settings=settings)
