"""Real servers that tests start and stop by themselves, on loopback, with nothing left behind."""
