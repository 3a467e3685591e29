"""The driver: the loop of a run, and everything around it."""
