"""Verification at the protected site: by the index key alone, by schedule or by command."""
