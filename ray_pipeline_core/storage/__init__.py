"""Everything that touches a filesystem."""
