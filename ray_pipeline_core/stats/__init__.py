"""Statistics of steps: the metrics, the stats of a pipeline, and the merged stats of a run folder."""
