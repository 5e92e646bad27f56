"""A small NBD server over any `Backend`: protocol without I/O, and an asyncio server around it.

It knows nothing of containers, journals or domains.
"""
