"""What a recovery site makes of the configuration of a VM: documents of its hypervisor."""
