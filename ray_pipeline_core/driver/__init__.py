"""The driver: one loop, one thread, and what surrounds them."""
