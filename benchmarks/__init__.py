"""Measurements against bare Ray and datatrove, side by side in one run."""
