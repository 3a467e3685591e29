"""Links that the provider adds to the pages of tasks."""
