"""Where `rehydrate` gets its secrets from: never from the command line, which every process can read."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from cdp_container.console import secret_in_environment, secret_in_file
from cdp_container.errors import UsageError
from rehydrate.container import Secret


def read_secret(passphrase_file: Path | None, key_file: Path | None) -> Secret:
    """A key file, a passphrase file, else the environment. Raises KeyMissing, UsageError."""
    if key_file is not None:
        return Secret(private_key=_private_key(key_file))
    if passphrase_file is not None:
        return Secret(passphrase=secret_in_file(passphrase_file))
    return Secret(passphrase=secret_in_environment())


def ask_passphrase() -> Secret:
    """Asked on the terminal, where there is one; else no secret at all."""
    if not sys.stdin.isatty():
        return Secret()
    try:
        return Secret(passphrase=getpass.getpass("Passphrase of the domain: ") or None)
    except EOFError:  # the terminal was closed: there is nobody to ask
        return Secret()


def _private_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(secret_in_file(path))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"read the key in {path}", "it is not 64 hex digits")
    return key
