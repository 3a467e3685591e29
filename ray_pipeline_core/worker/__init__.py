"""The code that runs ranks inside a worker, without Ray."""
