"""VMs of the domain: how hypervisors are asked for their configurations, and what their answers mean."""
