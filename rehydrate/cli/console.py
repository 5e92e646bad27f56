"""How every command fails, and where secrets come from: never from the command line.

Data goes to stdout, everything else to stderr. What a command does, and how its result is written, does not
belong here.
"""

from __future__ import annotations

import getpass
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cdp_container.errors import CdpError, KeyMissing, UsageError
from cdp_container.format.keyblock import text_of_file
from rehydrate.container import Secret

EXIT_INTERRUPTED: Final = 130
SECRET_BYTES_MAX: Final = 4096
PASSPHRASE_VARIABLE: Final = "CDP_PASSPHRASE"  # noqa: S105 (a name, not a secret)


def say(line: str) -> None:
    """One line for the person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def guarded(command: Callable[[], int]) -> int:
    """Run a command and turn what it raises into messages and an exit code."""
    try:
        return command()
    except CdpError as error:
        say(f"error: {error.what}: {error.why}")
        say(f"hint: {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        say("error: interrupted: nothing half-written was left that looks done")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; Python would complain again at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CdpError.exit_code
    except Exception as error:  # noqa: BLE001 (the last line of defence: it says all that it knows)
        traceback.print_exc()
        say(f"error: unexpected: {type(error).__name__}: {error}")
        say("hint: " + CdpError.default_hint)
        return CdpError.exit_code


def read_secret(passphrase_file: Path | None, key_file: Path | None) -> Secret:
    """A key file, a passphrase file, else the environment. Raises KeyMissing, UsageError."""
    if key_file is not None:
        return Secret(private_key=_private_key(key_file))
    if passphrase_file is not None:
        return Secret(passphrase=_text_of(passphrase_file))
    return Secret(passphrase=os.environ.get(PASSPHRASE_VARIABLE) or None)


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
        key = bytes.fromhex(_text_of(path))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"read the key in {path}", "it is not 64 hex digits")
    return key


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = text_of_file(file.read(SECRET_BYTES_MAX + 1).decode())
    except OSError as error:
        raise KeyMissing(f"read {path}", error.strerror or "unreadable") from error
    except UnicodeDecodeError:
        raise KeyMissing(f"read {path}", "it is not UTF-8 text") from None
    if not text or len(text.encode()) > SECRET_BYTES_MAX:
        raise KeyMissing(f"read {path}", "it is empty, or far too long")
    return text
