"""Statistics of pipeline steps: metrics, stats per rank, and their sums over the ranks of a run."""
