"""What is measured: each module has `measure(full)`, which returns its rows."""
