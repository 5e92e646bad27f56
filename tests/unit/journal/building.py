"""Journal files made by hand, so that the reader is tested without the splitter's writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cdp_container.journal.files import file_name
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import (
    FileHeader,
    Kind,
    encode_file_header,
    encode_record_header,
    padded_bytes,
)

DOMAIN = bytes(range(16))
BOOT = b"b" * 16


@dataclass
class JournalBuilder:
    """Appends to a journal in `directory`; `at` is its tail."""

    directory: Path
    file_bytes: int = 64 << 10
    number: int = 0
    generation: int = 0
    start: int = 0
    previous: Position = NOWHERE
    content: bytearray = field(default_factory=bytearray)
    time_ns: int = 1_000_000_000
    domain: bytes = DOMAIN

    @property
    def at(self) -> Position:
        return Position(self.generation, self.start + len(self.content))

    @property
    def path(self) -> Path:
        return self.directory / file_name(self.number)

    def begin_generation(self, generation: int) -> None:
        self.previous = self.at if self.generation else NOWHERE
        self.generation, self.start = generation, 0
        self._begin_file()

    def rotate(self) -> None:
        """End the file and go on in the next one."""
        self._append(Kind.END_OF_FILE, 0, 0, 0, b"")
        self.start = self.at.offset
        self._begin_file()

    def write(self, source: int, offset: int, payload: bytes) -> Position:
        return self._append(Kind.WRITE, source, offset, len(payload), payload)

    def zero(self, source: int, offset: int, span: int) -> Position:
        return self._append(Kind.ZERO, source, offset, span, b"")

    def note(self, note: int) -> Position:
        return self._append(Kind.NOTE, 0, note, 0, b"")

    def _append(self, kind: Kind, source: int, offset: int, span: int, payload: bytes) -> Position:
        at = self.at
        self.time_ns += 1
        header = encode_record_header(kind, source, at, offset, span, self.time_ns, payload)
        self.content += header + payload + bytes(padded_bytes(len(payload)) - len(payload))
        self._store()
        return at

    def _begin_file(self) -> None:
        self.number += 1
        self.content = bytearray()
        self._store()

    def _store(self) -> None:
        header = FileHeader(self.domain, self.number, self.generation, self.start, self.previous, BOOT, 5)
        data = encode_file_header(header) + self.content
        self.path.write_bytes(data.ljust(self.file_bytes, b"\0"))
