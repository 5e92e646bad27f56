"""What a comparison of one source with the index came to, while it goes on and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import counted
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED, Verdict

_SHOWN_MAX: Final = 3


@dataclass(slots=True)
class Tally:
    """Bytes that were read again, that no checksum covers, and that differ; the first of those by name."""

    read_bytes: int = 0
    unknown_bytes: int = 0
    wrong_bytes: int = 0
    first: list[str] = field(default_factory=list)

    def differs(self, start: int, end: int, where: str = "") -> None:
        """Count a stretch that differs, and note where it is."""
        self.wrong_bytes += end - start
        if len(self.first) < _SHOWN_MAX:
            self.first.append(f"{start} to {end}{f' of {where}' if where else ''}")

    def verdict(self, name: str, seconds: float) -> Verdict:
        """What it came to."""
        rest = f"; {counted(self.unknown_bytes, 'byte')} not comparable" if self.unknown_bytes else ""
        if self.wrong_bytes:
            first = ", ".join(self.first)
            why = f"{counted(self.wrong_bytes, 'byte')} differ from the index, the first: {first}{rest}"
            return Verdict("checksums", name, FAILED, why, seconds)
        if not self.read_bytes:
            why = f"nothing was written that has a checksum{rest}"
            return Verdict("checksums", name, NOT_CHECKED, why, seconds)
        why = f"{counted(self.read_bytes, 'byte')} read again, all as the index says{rest}"
        return Verdict("checksums", name, PASSED, why, seconds)
