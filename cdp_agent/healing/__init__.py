"""Healing: what is damaged in the container and can still be had here, written anew as packs."""
