"""A rehearsal of recovery in stages: restored beside production, checked, measured, and cleared away."""
