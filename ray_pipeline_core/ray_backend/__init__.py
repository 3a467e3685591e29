"""The worker backend on Ray, and the only code that imports Ray."""
