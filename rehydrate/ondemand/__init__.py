"""Reading any part of a volume or file at a cut when it is asked for: fetched, verified, kept for a while."""
