"""The tests: they mirror the packages, and carry the servers, clients and oracle that they need."""
