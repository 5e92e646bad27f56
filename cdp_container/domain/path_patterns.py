"""Patterns of paths, as regular expressions, for what a tree leaves out and what is restored. PURE.

`*` fits any bytes of one name, `?` one byte, `[abc]` and `[!abc]` one of some, `**` any bytes, slashes too.
Where a pattern begins and ends, and what it is there for, does not belong here.
"""

from __future__ import annotations

import re


def pattern_expression(body: bytes) -> bytes:
    """A pattern, without slashes around it, as a regular expression over a path."""
    out = bytearray()
    at = 0
    while at < len(body):
        char = body[at : at + 1]
        at += 1
        if body.startswith(b"**/", at - 1):
            out += b"(?:.*/)?"
            at += 2
        elif body.startswith(b"**", at - 1):
            out += b".*"
            at += 1
        elif char == b"*":
            out += b"[^/]*"
        elif char == b"?":
            out += b"[^/]"
        elif char == b"[" and (end := body.find(b"]", at + 1 + body.startswith(b"!", at))) > 0:
            out += _one_of(body[at:end])
            at = end + 1
        else:
            out += re.escape(char)
    return bytes(out)


def _one_of(inside: bytes) -> bytes:
    escaped = inside.replace(b"\\", b"\\\\").replace(b"[", b"\\[").replace(b"^", b"\\^").replace(b"]", b"\\]")
    return b"(?!/)[" + (b"^" + escaped[1:] if inside.startswith(b"!") else escaped) + b"]"
