"""The driver as a job on a Ray cluster, over Ray's Jobs REST API: needs no Ray where it is submitted."""
