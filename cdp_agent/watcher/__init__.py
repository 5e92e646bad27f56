"""The watcher: looks at file trees, reads what changed, remembers what the container has (docs/trees.md)."""
