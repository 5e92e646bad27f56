"""Recovered VMs on a hypervisor of this site: defined, started in order, watched until their checks pass."""
