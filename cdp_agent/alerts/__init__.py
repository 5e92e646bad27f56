"""Telling somebody that protection is in trouble, by a command or a webhook of the administrator's."""
