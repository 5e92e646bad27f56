"""How `cdp-agent` asks for a new passphrase: never on the command line, which every process can read."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from cdp_container.console import SECRET_BYTES_MAX, secret_in_environment, secret_in_file
from cdp_container.errors import KeyMissing, UsageError


def read_passphrase(file: Path | None, *, confirm: bool) -> str:
    """The passphrase: from a file, else the environment, else asked on the terminal (twice to confirm).

    Raises KeyMissing, UsageError.
    """
    if file is not None:
        return secret_in_file(file)
    given = secret_in_environment()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise KeyMissing("no passphrase", "none was given and there is no terminal to ask on")
    passphrase = getpass.getpass("Passphrase for the domain's key: ")
    if not passphrase or len(passphrase.encode()) > SECRET_BYTES_MAX:
        raise UsageError(
            "read a passphrase", f"it is empty or longer than {SECRET_BYTES_MAX} bytes", "run it again"
        )
    if confirm and getpass.getpass("The same again: ") != passphrase:
        raise UsageError("read a passphrase", "the two differ", "run the command again")
    return passphrase
