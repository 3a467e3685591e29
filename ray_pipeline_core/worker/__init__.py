"""What happens inside a worker: no Ray here."""
