"""What is dealt to the ranks of a run: files, or whatever else a source lists, and what has changed since."""
