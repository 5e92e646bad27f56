"""How the VMs of a domain are to run at a recovery site: the page, and whether it fits."""
