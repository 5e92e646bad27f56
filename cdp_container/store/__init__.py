"""Keys and bytes: the `Store` protocol, directories, S3, retries, and the probe of a store's word."""
