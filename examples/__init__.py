"""Examples of pipelines; each is run by a test."""
