"""A cut as a read-only file system: volumes as raw files, trees as they were (docs/mount.md)."""
