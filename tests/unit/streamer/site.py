"""A protected site without guests and sockets: journal, pages, volumes, and a container in a directory.

    site = AgentSite(tmp_path)
    with site.streaming():
        site.write(0, 4096, b"data")
        site.flush()
    assert site.restored("disk")[4096:4100] == b"data"

Journal records are written by the splitter's own writer; the container is read by the independent reader.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdp_agent.splitter.journal_run import JournalRun
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.streamer.control import call
from cdp_agent.streamer.local import BOOT_ID, disk_at
from cdp_agent.streamer.run import run_streamer
from cdp_agent.streamer.settings import StreamerSettings
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.owner import first_owner
from cdp_container.errors import CdpError
from cdp_container.format.domain import (
    DomainConfig,
    Encryption,
    Source,
    build_config,
    build_owner,
    config_digest,
)
from cdp_container.format.keyblock import ScryptCost, build_key_block, wrap_for_passphrase
from cdp_container.format.keys import OWNER_KEY, config_key
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.journal.position import NOWHERE
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind
from cdp_container.journal.served import disks_served, volumes_served
from cdp_container.journal.shared import SharedPages, SplitterPage
from cdp_container.store.directory import DirectoryStore
from nbd_export.files import OsFiles
from tests.recovery import Recovery
from tests.waiting import wait_until

PASSPHRASE = "correct horse battery staple"
DEADLINE_SECONDS = 30.0
SIZE_BYTES = 1 << 20


@dataclass
class AgentSite:
    """See the module. `images` is what each volume holds now, by source index."""

    root: Path
    volumes: tuple[str, ...] = ("disk",)
    size_bytes: int = SIZE_BYTES
    encrypted: bool = True
    whole: bool = True
    file_bytes: int = 256 << 10
    cut_every_seconds: float = 0.05
    images: list[bytearray] = field(default_factory=list)
    page: SplitterPage = field(default_factory=SplitterPage)

    def __post_init__(self) -> None:
        self.directory = self.root / "agent"
        (self.directory / "journal").mkdir(parents=True)
        (self.root / "container").mkdir()
        self.store = DirectoryStore(self.root / "container")
        private_key = os.urandom(32)
        domain = os.urandom(16)
        key_block = b""
        if self.encrypted:
            cost = ScryptCost(n=2, r=1, p=1)
            wrap = wrap_for_passphrase(private_key, PASSPHRASE, domain, os.urandom(16), os.urandom(12), cost)
            key_block = build_key_block(public_of(private_key), [wrap])
        sources = []
        for name in self.volumes:
            backing = self.root / f"{name}.img"
            with backing.open("wb") as file:
                file.truncate(self.size_bytes)
            sources.append(SourceIdentity(name, str(backing), os.urandom(16), self.size_bytes))
            self.images.append(bytearray(self.size_bytes))
        self.identity = AgentIdentity(
            domain=domain,
            name="shop",
            site="site-a",
            encryption="aes-256-gcm" if self.encrypted else "none",
            public_key=public_of(private_key) if self.encrypted else b"",
            index_key=derive_index_key(private_key, domain) if self.encrypted else b"",
            key_block=key_block,
            config_digest=bytes(32),
            sources=tuple(sources),
        )
        nonce = self._create_domain()
        whole = frozenset(source.space for source in sources) if self.whole else frozenset()
        save_notes(self.directory, Notes((nonce,), whole))
        self.pages = SharedPages(self.directory / "shared")
        self.writer: JournalWriter | None = None
        self.begin_generation()

    def _create_domain(self) -> bytes:
        identity = self.identity
        config = build_config(
            DomainConfig(
                identity.domain,
                identity.name,
                Encryption(identity.encryption),
                identity.key_block,
                sources=tuple(
                    Source("volume", source.name, source.space, source.size_bytes)
                    for source in identity.sources
                ),
            )
        )
        digest = config_digest(config)
        self.store.put_new(config_key(digest), config)
        nonce = os.urandom(16)
        owner = first_owner(identity.domain, identity.name, identity.site, nonce, digest, 30, 1)
        self.store.put_new(OWNER_KEY, build_owner(owner))
        return nonce

    # --- the splitter's part -------------------------------------------------------------------

    def begin_generation(self) -> None:
        """What every start of a splitter does."""
        directory = self.directory / "journal"
        end = NOWHERE if self.writer is None else self.writer.tail
        with JournalReader(directory, self.identity.domain) as reader:
            run = JournalRun(
                OsFiles(),
                directory,
                self.identity.domain,
                b"b" * 16,
                SystemClock().wall_ns,
                self.file_bytes,
                1 << 30,
                reader.files,
                end if reader.files else NOWHERE,
            )
            self.writer = JournalWriter(OsFiles(), SystemClock().wall_ns, run)
        generation = int.from_bytes(os.urandom(8), "little") or 1
        self.writer.begin_generation(generation)
        boot = bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))
        self.publish(generation=generation, running=True, exports_open=True, boot=boot)

    def lose_journal(self) -> None:
        """Another disk under the agent, or an old one."""
        for path in (self.directory / "journal").iterdir():
            path.unlink()
        self.begin_generation()

    def publish(self, **changes: object) -> None:
        assert self.writer is not None
        reached = {"tail": self.writer.tail, "synced": self.writer.tail, "applied": self.writer.tail}
        active = self.identity.active.items()
        sources = volumes_served((index, source.space, source.size_bytes) for index, source in active)
        disks = disks_served((index, disk_at(source.path)) for index, source in active)
        changed = {**reached, "sources": sources, "disks": disks, **changes}
        self.page = replace(self.page, **changed)  # type: ignore[arg-type]  # tests name them
        self.pages.splitter.publish(self.page)

    def write(self, source: int, offset: int, data: bytes) -> None:
        assert self.writer is not None
        self.writer.append_write(source, offset, data)
        self.fill(source, offset, data)
        self.publish()

    def void(self, kind: Kind, source: int, offset: int, length: int) -> None:
        assert self.writer is not None
        self.writer.append_range(kind, source, offset, length)
        self.fill(source, offset, bytes(length))
        self.publish()

    def fill(self, source: int, offset: int, data: bytes) -> None:
        """Write to the backing store behind everybody's back, as before `init`."""
        with Path(self.identity.sources[source].path).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        self.images[source][offset : offset + len(data)] = data

    # --- the streamer --------------------------------------------------------------------------

    def settings(self) -> StreamerSettings:
        return StreamerSettings(
            directory=self.directory,
            identity=self.identity,
            store=str(self.root / "container"),
            cut_every_seconds=self.cut_every_seconds,
            software="tests",
        )

    @contextmanager
    def streaming(self) -> Iterator[Streaming]:
        """A streamer in a thread, until the block ends."""
        running = Streaming(self.settings())
        running.thread.start()
        try:
            yield running
        finally:
            running.stop.set()
            running.thread.join(DEADLINE_SECONDS)
        assert not running.thread.is_alive()
        if running.error is not None and not running.may_fail:
            raise running.error

    def ask(
        self, command: str, timeout_seconds: float = DEADLINE_SECONDS, **members: object
    ) -> dict[str, Any]:
        """Ask the streamer, once it listens."""

        def answered() -> dict[str, Any]:
            try:
                return call(self.directory, {"command": command, **members}, timeout_seconds)
            except OSError:
                return {}

        return wait_until(answered, f"the streamer answers {command}", DEADLINE_SECONDS)

    def flush(self) -> None:
        answer = self.ask("flush")
        assert answer["ok"], answer

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.ask("status")["facts"]
        return facts

    def facts_once(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """The facts, as soon as they fulfil the condition."""

        def fulfilled() -> dict[str, Any]:
            facts = self.facts()
            return facts if condition(facts) else {}

        return wait_until(fulfilled, what, DEADLINE_SECONDS)

    def notes(self) -> Notes:
        return load_notes(self.directory)

    # --- the recovery site ---------------------------------------------------------------------

    def recovery(self) -> Recovery:
        return Recovery(self.store, PASSPHRASE if self.encrypted else None)

    def restored(self, volume: str) -> bytes:
        """What the independent reader makes of the newest cut."""
        return self.recovery().restored(volume)


class Streaming:
    """A running streamer. `error` is what ended it; with `may_fail` that is no failure of the test."""

    def __init__(self, settings: StreamerSettings) -> None:
        self.stop = threading.Event()
        self.error: CdpError | None = None
        self.may_fail = False
        self.thread = threading.Thread(target=self._run, args=(settings,), name="streamer")

    def _run(self, settings: StreamerSettings) -> None:
        try:
            run_streamer(settings, stop=self.stop)
        except CdpError as error:
            self.error = error
