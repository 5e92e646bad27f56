"""A site that was overtaken: a container with the histories of two sites, and what the first one has.

    world = Overtaken(tmp_path, {"disk": 1 << 20})
    world.write("disk", 0, b"sent")
    world.cut()
    world.write("disk", 4096, b"never sent")
    world.other_takes_over()
    world.other_writes("disk", 8192, b"from the other side")
    newest = world.other_cut()

The journal, `shared`, notes.json and agent.json are as a splitter and a streamer leave them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cdp_container.clock import SystemClock
from cdp_container.domain.durable import replace_file
from cdp_container.domain.holding import Holding, Reader
from cdp_container.domain.identity import IDENTITY_NAME, AgentIdentity, SourceIdentity, encode_identity
from cdp_container.domain.notes import Notes, save_notes
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import Note
from cdp_container.journal.served import disk_of, disks_served
from cdp_container.journal.shared import SharedPages, SplitterPage, StreamerPage
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret, open_container
from rehydrate.failback import NO_WORDS, Failback, Words
from rehydrate.flow import Flow
from rehydrate.here import Here
from rehydrate.plan import Choice
from tests.containers import PASSPHRASE, Site, Write, discard, write, zero
from tests.unit.journal.building import JournalBuilder

_READER = Reader("hamburg", "somebody", "failback")
BOOT = b"B" * 16
OTHER_BOOT = b"b" * 16
JOURNAL_FILE_BYTES = 1 << 18
"""A generation that does not fit is none: the builder writes the file anew with every record."""


class Overtaken:
    """See above. `page` is published by `stop`; changes to it before are a test's doing."""

    def __init__(
        self,
        directory: Path,
        volumes: dict[str, int],
        seed: int = 0,
        encrypted: bool = False,
        store: Store | None = None,
    ) -> None:
        self.store = MemoryStore(SystemClock()) if store is None else store
        self.site = Site(self.store, seed, encrypted)
        self.spaces = {name: self.site.add_volume(name, size) for name, size in volumes.items()}
        self.directory = directory / "journal-dir"
        (self.directory / "journal").mkdir(parents=True)
        self.journal = JournalBuilder(self.directory / "journal", JOURNAL_FILE_BYTES, domain=self.site.domain)
        self.journal.begin_generation(0xA1)
        self.paths = {name: directory / f"{name}.raw" for name in volumes}
        for name, size in volumes.items():
            with self.paths[name].open("wb") as file:
                file.truncate(size)
        self.identity = AgentIdentity(
            self.site.domain, "shop", "site-a", "none", b"", b"", b"", bytes(32),
            tuple(
                SourceIdentity(name, str(self.paths[name]), self.spaces[name], size)
                for name, size in volumes.items()
            ),
        )  # fmt: skip
        self.notes = Notes(whole=frozenset(self.spaces.values()))
        self.synced: Position | None = None
        self.proven = NOWHERE
        self.page_changes: dict[str, object] = {}
        self.said: list[str] = []
        self.unheld: list[str] = []
        self._pending: list[Write] = []
        self._other: list[Write] = []
        self.site.begin_epoch()

    # --- the site that will be overtaken -------------------------------------------------------

    def write(self, name: str, offset: int, data: bytes, on_disk: bool = True) -> None:
        """What a guest writes; `on_disk` False: the splitter was killed before its backing write."""
        self.journal.write(self.index(name), offset, data)
        self._pending.append(write(self.spaces[name], offset, data))
        if on_disk:
            self.put(name, offset, data)

    def trim(self, name: str, offset: int, length: int) -> None:
        """What a guest discards."""
        self.journal.zero(self.index(name), offset, length)
        self._pending.append(discard(self.spaces[name], offset, length))
        self.put(name, offset, bytes(length))

    def cut(self, not_whole: tuple[bytes, ...] = ()) -> Place:
        """A cut of all that was written so far."""
        self.site.journal = (self.journal.at.generation, self.journal.at.offset)
        place = self.site.cut(self._pending, not_whole=not_whole)
        self._pending = []
        self.proven = self.journal.at
        return place

    def clone_cut(self, name: str, offset: int, data: bytes) -> Place:
        """A cut that a clone took, or this host before it was reverted; its position is our journal's end."""
        proven, self._pending = self.proven, [write(self.spaces[name], offset, data)]
        place = self.cut()
        self.proven = proven
        return place

    def put(self, name: str, offset: int, data: bytes) -> None:
        """Bytes on a disk, whoever wrote them; its time is that of the journal's last record."""
        with self.paths[name].open("r+b") as file:
            file.seek(offset)
            file.write(data)
        self.age(name)

    def age(self, name: str) -> None:
        """Let a disk look as if the newest record were the last that was done to it."""
        os.utime(self.paths[name], ns=(self.journal.time_ns, self.journal.time_ns))

    def index(self, name: str) -> int:
        """The index of a source."""
        return next(at for at, source in enumerate(self.identity.sources) if source.name == name)

    def stop(self, clean: bool = False) -> None:
        """The agent is gone: what it published and noted is on its disk."""
        if clean:
            self.journal.note(Note.CLEAN_STOP)
        served = [(index, disk_of(os.stat(source.path))) for index, source in self.identity.active.items()]
        page: dict[str, object] = {
            "generation": self.journal.generation,
            "tail": self.journal.at,
            "synced": self.synced or self.journal.at,
            "boot": BOOT,
            "disks": disks_served(served),
        }
        pages = SharedPages(self.directory / "shared")
        pages.splitter.publish(SplitterPage(**{**page, **self.page_changes}), durable=True)  # type: ignore[arg-type]
        pages.streamer.publish(StreamerPage(proven=self.proven))
        pages.close()
        save_notes(self.directory, self.notes)
        replace_file(self.directory / IDENTITY_NAME, encode_identity(self.identity))

    def read_owner(self) -> None:
        """Let the other site's writer know what somebody else made of `domain/owner`."""
        found = self.store.get(OWNER_KEY)
        self.site.owner = parse_owner(found.data, OWNER_KEY, self.site.domain)
        self.site._tag = found.found.tag

    # --- the other site ------------------------------------------------------------------------

    def other_takes_over(self, base: Place | None = None) -> None:
        """Another site goes on from a cut, the newest if none is named."""
        self.site.name_of_site, self.site.journal = "site-b", None
        self.site.begin_epoch(base)

    def other_writes(self, name: str, offset: int, data: bytes) -> None:
        """What a guest writes there."""
        self._other.append(write(self.spaces[name], offset, data))

    def other_trims(self, name: str, offset: int, length: int) -> None:
        """What a guest discards there."""
        self._other.append(discard(self.spaces[name], offset, length))

    def other_zeroes(self, name: str, offset: int, length: int) -> None:
        """What a guest zeroes there."""
        self._other.append(zero(self.spaces[name], offset, length))

    def other_cut(self) -> Place:
        """A cut of all that was written there."""
        place = self.site.cut(self._other)
        self._other = []
        return place

    # --- the way back --------------------------------------------------------------------------

    def failback(
        self, boot: bytes = BOOT, say: Callable[[str], None] | None = None, words: Words = NO_WORDS
    ) -> Failback:
        """As the command makes it."""
        secret = Secret(PASSPHRASE) if self.site.encrypted else Secret()
        here = Here(
            self.directory,
            self.identity,
            {name: str(path) for name, path in self.paths.items()},
            boot,
            trees={tree.name: tree for tree in self.identity.active_trees},
        )
        return Failback(
            here,
            lambda: open_container(self.store, secret),
            Holding(self.store, _READER, SystemClock(), os.urandom, self.unheld.append, starts_thread=False),
            Flow(),
            SystemClock(),
            say or self.said.append,
            words,
        )

    def fail_back(self, boot: bytes = BOOT, words: Words = NO_WORDS) -> Place:
        """One pass to the newest cut."""
        with self.failback(boot, words=words) as run:
            self.compared_bytes = self.fetched_bytes = self.changed_bytes = 0
            place = run.pass_to(Choice())
            self.compared_bytes = run.figures.compared_bytes
            self.fetched_bytes = run.figures.fetched_bytes
            self.changed_bytes = run.figures.changed_bytes
            return place

    def assert_disks_are(self, place: Place) -> None:
        """Every disk, byte for byte."""
        for name, path in self.paths.items():
            assert path.read_bytes() == self.site.images[place][self.spaces[name]], (name, place)
