"""The protocol on top of objects: ownership, the history of epochs, what exists, settings."""
