"""Volumes of a point as images for other hypervisors and clouds: in files, and in buckets."""
