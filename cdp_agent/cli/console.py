"""What every command prints its failures with, and asks passphrases by.

Data goes to stdout, everything else to stderr. What does not belong here: what a command does.
"""

from __future__ import annotations

import getpass
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cdp_container.errors import CdpError, KeyMissing, UsageError
from cdp_container.format.keyblock import text_of_file

EXIT_INTERRUPTED = 130
PASSPHRASE_BYTES_MAX = 4096
PASSPHRASE_VARIABLE = "CDP_PASSPHRASE"  # noqa: S105  (a name, not a secret)


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
        say("error: interrupted: by the keyboard or a signal")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; that is no failure worth a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  (the last line of defence: it says all it knows)
        traceback.print_exc()
        say(f"error: {type(error).__name__}: this is a fault of the program")
        say("hint: " + CdpError.default_hint)
        return CdpError.exit_code


def read_passphrase(file: Path | None, *, confirm: bool) -> str:
    """The passphrase: from a file, else the environment, else asked on the terminal (twice to confirm).

    Never taken from the command line, which every process on the machine can read.
    Raises KeyMissing, UsageError.
    """
    if file is not None:
        return _from_file(file)
    if PASSPHRASE_VARIABLE in os.environ:
        return _checked(os.environ[PASSPHRASE_VARIABLE], PASSPHRASE_VARIABLE)
    if not sys.stdin.isatty():
        raise KeyMissing("no passphrase", "none was given and there is no terminal to ask on")
    passphrase = _checked(getpass.getpass("Passphrase for the domain's key: "), "the terminal")
    if confirm and getpass.getpass("The same again: ") != passphrase:
        raise UsageError("read a passphrase", "the two differ", "run the command again")
    return passphrase


def _from_file(file: Path) -> str:
    try:
        with file.open("rb") as source:
            text = source.read(PASSPHRASE_BYTES_MAX + 1).decode()
    except OSError as error:
        raise KeyMissing(f"cannot read {file}", error.strerror or "unreadable") from error
    except UnicodeDecodeError:
        raise KeyMissing(f"cannot read {file}", "it is not UTF-8 text") from None
    return _checked(text_of_file(text), str(file))


def _checked(passphrase: str, source: str) -> str:
    if not passphrase:
        raise KeyMissing("no passphrase", f"{source} holds an empty one")
    if len(passphrase.encode()) > PASSPHRASE_BYTES_MAX:
        raise UsageError(
            "read a passphrase", f"it is longer than {PASSPHRASE_BYTES_MAX} bytes", "use a shorter one"
        )
    return passphrase
