"""The oracle: a workload whose every sector tells which write made it, and the verifier of images."""
