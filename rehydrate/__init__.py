"""Rebuild volumes from a container alone, at any recovery site. Never imports cdp_agent."""
