"""The bytes of a container's objects: builders and parsers, keys, codecs, sealing.

Specified by docs/container-format.md. Pure: no clock, no I/O, no randomness, no logging; whoever calls
passes in every random value. What does not belong here: what the objects mean together (owners, branches,
resolution), and where they are kept. Every parser takes any bytes and raises only the errors of
`cdp_container.errors`, in memory that `limits` bounds.
"""
