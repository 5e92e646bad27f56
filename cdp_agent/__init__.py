"""Capture and ship: what runs at the protected site, beside the workloads."""
