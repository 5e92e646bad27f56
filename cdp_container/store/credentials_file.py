"""Writing a file of credentials, in the form of AWS's shared one, for an address that names it.

Reading it is for the client (s3_clients). Where credentials come from does not belong here.
"""

from __future__ import annotations

from cdp_container.errors import UsageError


def credentials_text(section: str, access_key: str, secret_key: str, session: str | None = None) -> bytes:
    """The bytes of such a file with one section. Raises UsageError, which repeats no credentials."""
    members = {
        "aws_access_key_id": access_key,
        "aws_secret_access_key": secret_key,
        "aws_session_token": session,
    }
    lines = [f"[{section}]"]
    for name, value in members.items():
        if value is None:
            continue
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            # A line end in one of them would begin a member of somebody else's choice.
            raise UsageError("write a file of credentials", f"{name} is empty, or no word of ASCII")
        lines.append(f"{name} = {value}")
    return "\n".join([*lines, ""]).encode()
