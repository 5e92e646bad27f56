"""What both commands do alike on a command line: how they fail, and how they read a secret.

Data goes to stdout, everything else to stderr. What a command does, and how its result is written, does
not belong here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import typer

from cdp_container.errors import CdpError, KeyMissing, UsageError
from cdp_container.format.keyblock import text_of_file

EXIT_INTERRUPTED: Final = 130
SECRET_BYTES_MAX: Final = 4096
PASSPHRASE_VARIABLE: Final = "CDP_PASSPHRASE"  # noqa: S105 (a name, not a secret)


def say(line: str) -> None:
    """One line for the person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_error(error: CdpError) -> None:
    """`error: what: why`, then `hint: what to do`."""
    say(f"error: {error.what}: {error.why}")
    say(f"hint: {error.hint}")


def guarded(command: Callable[[], int]) -> int:
    """Run a command and turn what it raises into messages and an exit code."""
    try:
        return command()
    except CdpError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        say("error: interrupted: nothing half-done was left that looks done")
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


def run_app(app: typer.Typer) -> int:
    """Run a command line; gives its exit code."""
    try:
        # A command's code comes back as the value, what typer itself refuses as click's exceptions.
        result = app(standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        code = getattr(error, "exit_code", None)
        message = getattr(error, "format_message", None)
        if code is None or message is None:
            raise
        say(f"error: the command line: {message()}")
        say(f"hint: {UsageError.default_hint}")
        return int(code)
    return result if isinstance(result, int) else 0


def secret_in_file(path: Path) -> str:
    """The text of a passphrase or key file. Raises KeyMissing."""
    try:
        with path.open("rb") as file:
            text = text_of_file(file.read(SECRET_BYTES_MAX + 1).decode())
    except OSError as error:
        raise KeyMissing(f"cannot read {path}", error.strerror or "unreadable") from error
    except UnicodeDecodeError:
        raise KeyMissing(f"cannot read {path}", "it is not UTF-8 text") from None
    if not text or len(text.encode()) > SECRET_BYTES_MAX:
        raise KeyMissing(f"cannot read {path}", f"it is empty, or longer than {SECRET_BYTES_MAX} bytes")
    return text


def secret_in_environment() -> str | None:
    """The passphrase in CDP_PASSPHRASE; None where there is none. Raises KeyMissing."""
    text = os.environ.get(PASSPHRASE_VARIABLE)
    if text is not None and len(text.encode()) > SECRET_BYTES_MAX:
        raise KeyMissing(f"cannot use {PASSPHRASE_VARIABLE}", f"it is longer than {SECRET_BYTES_MAX} bytes")
    return text or None
