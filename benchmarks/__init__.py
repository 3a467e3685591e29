"""Measurements of ray-pipeline, compared with plain Ray and datatrove in the same run."""
