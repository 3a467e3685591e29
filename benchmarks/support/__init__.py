"""What the measurements share: clusters, processes, storage and the table of results."""
