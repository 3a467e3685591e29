"""The facet of a run for OpenLineage; importing it needs OpenLineage's client."""

from __future__ import annotations

import attr
from openlineage.client.facet_v2 import RunFacet


@attr.define
class RayPipelineRunFacet(RunFacet):
    """The numbers of a run.

    Attributes:
        run_folder: where stats, logs and the result are.
        world_size: number of ranks.
        completed: ranks that are done.
        skipped: those of them that earlier runs had done.
        failed: ranks that failed.
        retries: further attempts.
        documents: what the last step that counts documents has counted.
        bytes: what the last step that counts bytes has counted.
    """

    run_folder: str
    world_size: int
    completed: int
    skipped: int
    failed: int
    retries: int
    documents: float | None = None
    bytes: float | None = None

    @staticmethod
    def _get_schema() -> str:
        return "https://github.com/ray-pipeline/ray-pipeline/tree/main/docs/airflow.md#assets-and-openlineage"
