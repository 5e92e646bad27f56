"""What both commands do alike on a command line: how they fail, and how they read a secret.

Data goes to stdout, everything else to stderr. What a command does, and how its result is written, does
not belong here.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from copy import copy
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import typer
import typer.main
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import CommandInfo

from cdp_container.entry import EXIT_INTERRUPTED, imported
from cdp_container.errors import (
    CdpError,
    ConfigInvalid,
    DeviceError,
    KeyMissing,
    LocalDiskFull,
    RunbookUnfit,
    UsageError,
)

_HELP_INSTEAD: Final = "NoArgsIsHelpError"
"""What click raises where no command is given; its message is the help, unless that was printed already."""
_BAD_VALUE: Final = "BadParameter"
"""What click raises where a value is none that an option takes."""
_VALUE_ERROR: Final = "Value error, "
_INPUT: Final = "Input should "
_UNABLE: Final = ", unable to "
"""How pydantic, which typer asks, begins and ends its words."""
SECRET_BYTES_MAX: Final = 4096
PASSPHRASE_VARIABLE: Final = "CDP_PASSPHRASE"  # noqa: S105 (a name, not a secret)


def printable(text: str, lines: bool = False) -> str:
    """Text with everything escaped that could drive a terminal or, unless `lines` are meant, forge a line.

    Names come out of containers, and whoever can write to one chooses them.
    """
    if (text.replace("\n", "") if lines else text).isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (lines and character == "\n")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def say(line: str) -> None:
    """For the person, on stderr: a line, or several where it has line ends of its own."""
    print(printable(line, lines=True), file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """The result, on stdout. Raises LocalDiskFull, DeviceError where it cannot be written."""
    try:
        print(printable(text, lines=True), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()  # what is still in the buffer would fail again at the end
        kind = LocalDiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else DeviceError
        raise kind("write the answer to standard output", error.strerror or "it failed") from error


def print_error(error: CdpError) -> None:
    """`error: what: why`, then `hint: what to do`."""
    is_lines = isinstance(error, ConfigInvalid | RunbookUnfit)  # their faults are one a line
    why = error.why if is_lines else printable(error.why)
    say(f"error: {printable(error.what)}: {why}")
    say(f"hint: {printable(error.hint)}")


def guarded(command: Callable[[], int]) -> int:
    """Run a command and turn what it raises into messages and an exit code; interruptions go on."""
    imported()
    try:
        return command()
    except CdpError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; Python would complain again at its own end.
        _drop_output()
        return CdpError.exit_code
    except Exception as error:  # noqa: BLE001 (the last line of defence: it says all that it knows)
        say(traceback.format_exc().rstrip())
        say(f"error: unexpected: {type(error).__name__}: {error}")
        say("hint: " + CdpError.default_hint)
        return CdpError.exit_code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_app(app: typer.Typer) -> int:
    """Run a command line; gives its exit code, EXIT_INTERRUPTED where it was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter
    try:
        command = _command_of(app, sys.argv[1:2])
        _take_plain_values(command)
        # A command's code comes back as the value, what typer itself refuses as click's exceptions.
        result = command(standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        code = getattr(error, "exit_code", None)
        message = getattr(error, "format_message", None)
        if code is None or message is None:
            raise
        if type(error).__name__ == _HELP_INSTEAD:
            say(message())
            return int(code)
        say(_refused_words(error, message()))
        say(f"hint: {UsageError.default_hint}")
        return int(code)
    return result if isinstance(result, int) else 0


def _refused_words(error: Exception, message: str) -> str:
    """What typer refuses, as our own commands say it: of a value the option is named, and why."""
    param = getattr(error, "param", None)
    if type(error).__name__ != _BAD_VALUE or param is None:
        return f"error: the command line: {message}"
    name = max(param.opts, key=len) if isinstance(param, TyperOption) else str(param.name).upper()
    why = str(getattr(error, "message", "")).removeprefix(_VALUE_ERROR).partition(_UNABLE)[0]
    if why.startswith(_INPUT):
        why = f"it should {why.removeprefix(_INPUT)}"
    return f"error: read {name}: {why.removesuffix('.')}"


def _command_of(app: typer.Typer, words: list[str]) -> TyperGroup | TyperCommand:
    """What typer makes of the commands; of one alone where that was asked for: each takes a millisecond."""
    asked = [one for one in app.registered_commands if one.callback and _name_of(one) in words]
    if len(asked) != 1 or len(app.registered_commands) == 1:
        return cast(TyperGroup | TyperCommand, typer.main.get_command(app))
    narrowed = copy(app)
    narrowed.registered_commands = asked
    return typer.main.get_group(narrowed)


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or typer.main.get_command_name(command.callback.__name__)


def _take_plain_values(group: object) -> None:
    """Let typer import pydantic, which takes longer than all of typer, only for words that it has to judge.

    Where another typer does that in another way, it goes its own.
    """
    if not isinstance(group, TyperGroup):
        return
    for command in (group, *group.commands.values()):
        for param in command.get_params(typer.Context(command)):
            if isinstance(param, TyperOption | TyperArgument) and hasattr(param, "get_runtime_param"):
                plain = _PlainValue(param.type_descriptor.annotation, param.get_runtime_param)
                vars(param)["get_runtime_param"] = partial(_itself, plain)


class _PlainValue:
    """What typer asks to make a value of a word: a value already, text, a path; else typer's own way."""

    def __init__(self, kind: object, own: Callable[[], Any]) -> None:
        self._kind = kind
        self._own = own

    def coerce(self, value: object, param: TyperOption | TyperArgument, ctx: typer.Context) -> object:
        """The value, as typer's own would give it."""
        if value is None:
            return () if param.multiple else None
        if type(value) is self._kind:
            return value
        if isinstance(value, str):
            if self._kind is Path and (os.access(value, os.R_OK) or not os.path.lexists(value)):
                return Path(value)  # what is there and may not be read is refused by typer's own
            if isinstance(self._kind, type) and issubclass(self._kind, StrEnum) and value in list(self._kind):
                return self._kind(value)
        if (
            self._kind == list[str]
            and isinstance(value, list | tuple)
            and all(type(word) is str for word in value)
        ):
            return list(value)
        return self._own().coerce(value, param=param, ctx=ctx)


def _itself(plain: _PlainValue) -> _PlainValue:
    return plain


def run_app_until_ended(app: typer.Typer) -> int:
    """Like `run_app`, for commands that know no signals: to be ended or hung up is to be interrupted.

    What an interruption cleans up is cleaned up then too; gives 128 + the signal's number.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        for handled in before:
            signal.signal(handled, signal.SIG_IGN)  # the clean-up is not to be interrupted in its turn
        received.append(number)
        raise KeyboardInterrupt

    # Where one is ignored (nohup), it stays so.
    ending = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in ending}
    try:
        code = run_app(app)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received and code == EXIT_INTERRUPTED else code


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


def text_of_file(text: str) -> str:
    """What a passphrase file says: its text without the one line end that may follow it."""
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def secret_in_environment() -> str | None:
    """The passphrase in CDP_PASSPHRASE; None where there is none. Raises KeyMissing."""
    text = os.environ.get(PASSPHRASE_VARIABLE)
    if text is not None and len(text.encode()) > SECRET_BYTES_MAX:
        raise KeyMissing(f"cannot use {PASSPHRASE_VARIABLE}", f"it is longer than {SECRET_BYTES_MAX} bytes")
    return text or None
