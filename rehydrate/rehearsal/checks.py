"""The checks of a rehearsal, one after the other: checksums, file systems, commands of the administrator.

What each says stands in volumes, fsck and programs; what follows from it in run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.errors import UsageError
from rehydrate.rehearsal.fsck import Fsck, which_program
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Part, Restored, Sampling, Verdict
from rehydrate.rehearsal.programs import Redaction, run_program, without_secrets

LIMIT_SECONDS: Final = 600.0
COMMANDS_MAX: Final = 100
_NOT_IN_NAMES: Final = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What is to be checked beside checksums: file systems or not, commands, and how long each may take."""

    fsck: bool = True
    commands: tuple[tuple[str, ...], ...] = ()
    limit_seconds: float = LIMIT_SECONDS


def command_of(text: str) -> tuple[str, ...]:
    """The words of a command. Raises UsageError where it cannot be run."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError("read --check", f"{text!r}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError("read --check", f"there is no such program: {text!r}", "give its absolute path")
    return words


def told_of(directory: Path, point: str, time_text: str, sources: Sequence[Restored]) -> dict[str, str]:
    """What commands find in their environment."""
    told = {
        "CDP_DR_DIR": str(directory),
        "CDP_DR_POINT": point,
        "CDP_DR_TIME": time_text,
        "CDP_DR_SOURCES": json.dumps({source.name: str(source.path) for source in sources}),
    }
    for source in sources:
        name = _NOT_IN_NAMES.sub("_", source.name.upper())
        told[f"CDP_DR_{source.kind.upper()}_{name}"] = str(source.path)
    return told


@dataclass(frozen=True, slots=True)
class Checks:
    """All checks of one rehearsal, once everything is there."""

    parts: Sequence[Part]
    wanted: Reviewed
    sampling: Sampling
    directory: Path
    told: Mapping[str, str]
    hide: Redaction
    clock: Clock

    @property
    def sources(self) -> list[Restored]:
        """Of all parts."""
        return [source for part in self.parts for source in part.sources]

    @property
    def count(self) -> int:
        """How many verdicts there are at least: a volume may have several file systems."""
        volumes = sum(source.kind == "volume" for source in self.sources) if self.wanted.fsck else 0
        return len(self.sources) + volumes + len(self.wanted.commands)

    def run(self, read: Callable[[int], None]) -> Iterator[Verdict]:
        """Each verdict as it comes; `read` is given bytes that were read again."""
        for part in self.parts:
            yield from part.compared(read)
        if self.wanted.fsck:
            limit, on_demand = self.wanted.limit_seconds, self.sampling.on_demand
            fsck = Fsck(self.directory, limit, self.hide, self.clock, which_program, on_demand)
            for source in self.sources:
                if source.kind == "volume":
                    is_there = self.sampling.is_all or on_demand
                    yield from fsck.check(source) if is_there else _not_all(source)
        for words in self.wanted.commands:
            yield self._command(words)

    def _command(self, words: Sequence[str]) -> Verdict:
        name = self.hide(shlex.join(words))
        environment = {**without_secrets(os.environ), **self.told}
        limit = self.wanted.limit_seconds
        try:
            ended = run_program(words, environment, self.directory, limit, self.hide, self.clock)
        except OSError as error:
            return Verdict("command", name, FAILED, f"it cannot be started: {error.strerror}")
        if ended.left:
            numbers = ", ".join(map(str, ended.left))
            why = f"it left processes that cannot be ended: {numbers}"
            return Verdict("command", name, FAILED, why, ended.seconds, ended.excerpt)
        if ended.exit_code == 0:
            return Verdict("command", name, PASSED, "exit code 0", ended.seconds, ended.excerpt)
        code = ended.exit_code
        why = f"exit code {code}" if code is not None and code > 0 else f"signal {-code}" if code else ""
        why = why or f"it did not end within {limit:g} s"
        return Verdict("command", name, FAILED, why, ended.seconds, ended.excerpt)


def _not_all(source: Restored) -> Iterator[Verdict]:
    yield Verdict("fsck", source.name, NOT_CHECKED, "not all of its content was fetched")
