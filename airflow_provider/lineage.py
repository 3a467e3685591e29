"""What OpenLineage gets to know of a task, where Airflow's provider for it is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import Asset

from airflow_provider.folder_specs import split_folder
from airflow_provider.run_counts import run_counts
from ray_pipeline_core import InputFiles

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

FACET = "rayPipeline"
"""The name of the facet of runs."""


class PipelineLineage:
    """The methods by which Airflow asks an operator for its lineage; nothing else calls them.

    Attributes:
        lineage_result: `RunResult.to_dict()` of the run, once there is one.
    """

    inputs: Any
    inlets: list[Any]
    outlets: list[Any]
    lineage_result: Mapping[str, Any] | None = None

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return what the task reads and writes."""
        return operator_lineage(self.inputs, self.inlets, self.outlets)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what the task has read and written, with numbers."""
        return operator_lineage(self.inputs, self.inlets, self.outlets, self.lineage_result)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the same as for a success; the numbers are those of the ranks that completed."""
        return self.get_openlineage_facets_on_complete(task_instance)


def operator_lineage(
    inputs: Any, inlets: Iterable[Any], outlets: Iterable[Any], result: Mapping[str, Any] | None = None
) -> OperatorLineage[Any, Any]:
    """Return the lineage of a task. Airflow's provider for OpenLineage must be installed.

    Args:
        inputs: the inputs of the executor; `InputFiles` are a dataset, whatever else is none.
        inlets: the inlets of the task, of which assets are datasets.
        outlets: the outlets of the task, of which assets are datasets.
        result: `RunResult.to_dict()`, if there is one.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    read = [*_names(inlets), *([_dataset(_url(inputs.path))] if isinstance(inputs, InputFiles) else [])]
    written = _names(outlets)
    counts = {} if result is None else run_counts(result)
    # With several outlets nobody knows which document went where.
    facets = _statistics(counts) if len(written) == 1 else {}
    return OperatorLineage(
        inputs=[InputDataset(*name) for name in dict.fromkeys(read)],
        outputs=[OutputDataset(*name, outputFacets=facets) for name in written],
        run_facets={} if result is None else {FACET: _run_facet(result, counts)},
    )


def _names(assets: Iterable[Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_dataset(asset.uri) for asset in assets if isinstance(asset, Asset)))


def _url(path: Any) -> str:
    """Return the URL of a folder, however it is given."""
    name, storage = split_folder(path)
    return str(storage.unstrip_protocol(name) if hasattr(storage, "unstrip_protocol") else name)


def _dataset(url: str) -> tuple[str, str]:
    """Return namespace and name of what is at a path or URL, as OpenLineage writes them; without credentials."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    # In URLs of Azure it is the container that stands before the account.
    place = parts.netloc if user and ":" not in user and parts.scheme.startswith("abfs") else place
    name = parts.path.strip("/") if place else parts.path.rstrip("/")
    return (f"{parts.scheme}://{place}" if place else parts.scheme or "file"), name or "/"


def _statistics(counts: Mapping[str, Any]) -> dict[str, Any]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as facet

    if "documents" not in counts and "bytes" not in counts:
        return {}
    statistics = facet.OutputStatisticsOutputDatasetFacet(rowCount=counts.get("documents"), size=counts.get("bytes"))
    return {"outputStatistics": statistics}


def _run_facet(result: Mapping[str, Any], counts: Mapping[str, Any]) -> Any:
    from airflow_provider.lineage_facets import RayPipelineRunFacet

    return RayPipelineRunFacet(
        run_folder=counts["run_folder"],
        world_size=result["world_size"],
        completed=result["completed"],
        skipped=result.get("skipped", 0),
        failed=result.get("failed_count", len(result["failed"])),
        retries=result.get("retries", 0),
        documents=counts.get("documents"),
        bytes=counts.get("bytes"),
    )
