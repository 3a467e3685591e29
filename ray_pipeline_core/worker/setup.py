"""The setup of a run's workers: resources, pipeline, settings and attempt numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.inputs.deal import Deal, Share
from ray_pipeline_core.inputs.items import InputSource, ReadableSource
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
        inputs: the source of the inputs, if there is one.
        deal: which rank gets which inputs, if there are any.
    """

    config: RunConfig
    steps: Sequence[Step]
    packed_pipeline: bytes
    settings: RankSettings
    attempt_numbers: AttemptNumbers
    inputs: InputSource | None = None
    deal: Deal | None = None

    def share_of(self, rank: int) -> Share | None:
        """Return the inputs of a rank; None if the run has none."""
        return None if self.deal is None else self.deal.shares[rank]

    def with_modules_by_value(self, modules: Collection[str]) -> WorkerSetup:
        """Return the same setup for workers that can't import these modules: their code is sent along.

        Raises:
            PipelineLoadError: what would be sent can't be pickled.
        """
        before_retry = self.config.retry.before_retry
        packed = pack_function(before_retry, "RetryPolicy.before_retry", modules) if before_retry else None
        settings = replace(self.settings, before_retry=packed, inputs=pack_source(self.inputs, modules))
        return replace(self, packed_pipeline=pack_pipeline(self.steps, modules), settings=settings)


def pack_source(source: InputSource | None, by_value: Collection[str] = ()) -> bytes | None:
    """Return the pickled source of inputs, or None if it has nothing to do in a worker.

    Raises:
        PipelineLoadError: it can't be pickled.
    """
    return pack_function(source, "inputs", by_value) if isinstance(source, ReadableSource) else None
