"""What the protected site and a recovery site share: the container's format and protocols.

Layers, each importing only what stands below it:
`domain` > `extents` > `format | store | journal` > `errors | clock`.
"""
