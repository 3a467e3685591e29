"""Access to files: folders on any fsspec filesystem, run folders and their leases."""
