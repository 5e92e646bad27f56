"""What a developer or an administrator runs around the packages; no package imports from here."""
