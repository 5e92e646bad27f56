"""A point's volumes as NBD exports, at once: what is read is fetched then, what is written stays here."""
