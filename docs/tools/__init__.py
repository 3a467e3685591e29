"""Tools that write pages of the documentation."""
