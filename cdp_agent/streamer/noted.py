"""What a run says on its own machine: the durable notes, what the splitter may let go of, and `status`.

What does not belong here: when something is whole or protected (`steps`), how an epoch begins (`begin`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final, NoReturn

from cdp_agent.streamer.begin import believed, not_whole
from cdp_agent.streamer.engine_types import Local, Shown
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes
from cdp_container.errors import CdpError, Fenced, JournalDamaged
from cdp_container.format.place import NOWHERE
from cdp_container.journal.position import Position
from cdp_container.journal.shared import SplitterPage

SAVE_AGAIN_NS: Final = 1_000_000_000
"""Between two attempts to note what is whole."""


class Noted:
    """The notes as they are on the disk, and what was published and shown.

    Args:
        identity: the sources that may be whole.
        local: where notes and pages are.
        clock: of this machine.
    """

    def __init__(self, identity: AgentIdentity, local: Local, clock: Clock) -> None:
        self._identity = identity
        self._local = local
        self._clock = clock
        self._boot = local.boot()
        self._save_again_ns = 0
        self.notes = local.load_notes()
        self.shown = Shown()

    # --- the two pages -------------------------------------------------------------------------

    def splitter_page(self) -> SplitterPage | None:
        """What the splitter published since the machine started: older pages may hide an unclean boot."""
        return believed(self._local.splitter(), self._boot)

    @property
    def proven(self) -> Position:
        """What was published as proven."""
        return self._local.streamer().proven

    def publish_proven(self, position: Position) -> None:
        """What lies below is in the container, or will be compared with it."""
        streamer = self._local.streamer()
        if streamer.proven != position:
            self._local.publish(replace(streamer, proven=position))

    def publish_gate(self) -> None:
        """Tell the splitter where the notes of what guests may do are others than it last heard."""
        publish_gate(self._local, self.notes)

    def publish_compared(self) -> None:
        """Nothing is in doubt any more; the splitter may forget what was."""
        self.shown.standing = "streaming"
        self.shown.troubles.clear()
        self._local.publish(replace(self._local.streamer(), compared_episode=self.notes.episode))

    # --- what is whole -------------------------------------------------------------------------

    @property
    def not_whole(self) -> tuple[bytes, ...]:
        """The spaces that are not whole, in the order of agent.json."""
        return not_whole(self._identity, self.notes, self.splitter_page())

    def note_lacking(self, lacking: frozenset[bytes]) -> bool:
        """Durable before any cut: a later run must not take for whole what this one did not finish."""
        whole = self.notes.whole - lacking
        return whole == self.notes.whole or self.save(replace(self.notes, whole=whole))

    def note_whole(self, lacking: Collection[int], episode: int) -> bool:
        """Note what is protected wholly; asked again and again until that is durable.

        Args:
            lacking: indexes of the sources of which something is not protected.
            episode: the one that is compared once nothing lacks.

        Returns:
            Whether it is just now noted that nothing lacks.
        """
        now_ns = self._clock.boottime_ns()
        if now_ns < self._save_again_ns:
            return False
        active = self._identity.active
        whole = frozenset(source.whole_id for index, source in active.items() if index not in lacking)
        compared = self.notes.episode if lacking else episode
        known = (self.notes.whole, self.notes.episode)
        # From a protected cut of our own on, its position tells more than what the disks began with.
        noted = replace(self.notes, whole=whole, episode=compared, carried=NOWHERE)
        if noted == self.notes:
            return False
        self._save_again_ns = now_ns + SAVE_AGAIN_NS
        return self.save(noted) and not lacking and (whole, compared) != known

    def journal_damaged(self, error: JournalDamaged) -> NoReturn:
        """End the run. If the journal was given up, the next one does without it, and compares everything."""
        page = self.splitter_page()
        if page is not None and page.overflowed:
            self.note_lacking(self.notes.whole)  # durable, before that is published
        raise error

    # --- the notes -----------------------------------------------------------------------------

    def save(self, notes: Notes) -> bool:
        """Replace the notes; whether that is durable. If not, they are as they were."""
        try:
            self._local.save_notes(notes)
        except CdpError as error:
            self.trouble("notes", str(error))
            return False
        self.notes = notes
        self.shown.troubles.pop("notes", None)
        return True

    def fence(self, why: str) -> None:
        """Never write again. The note outlasts this run; without it the next run would find the same."""
        self.shown.standing = "fenced"
        self.trouble("fenced", why)
        fenced = replace(self.notes, fenced=why)
        self.save(fenced)
        self.notes = fenced

    def refuse_fenced(self) -> None:
        """Raises Fenced once that is noted."""
        if self.notes.fenced:
            self.shown.standing = "fenced"
            raise Fenced("the streamer stopped", self.notes.fenced)

    def trouble(self, topic: str, why: str) -> None:
        """Something to show, until it is over."""
        self.shown.troubles[topic] = why
        self.shown.last_error = f"{topic}: {why}"
        self.shown.last_error_ns = self._clock.wall_ns()


def publish_gate(local: Local, notes: Notes) -> None:
    """See `Noted.publish_gate`."""
    streamer = local.streamer()
    if streamer.gate is not notes.gate:
        local.publish(replace(streamer, gate=notes.gate))
