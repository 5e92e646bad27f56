"""The splitter: the process that owns a domain's NBD exports. Journal first, then disk, then the reply.

It never waits for the network, and nothing ends it while guests write but its end. What belongs
to cuts, segments and the store is the streamer's.
"""
