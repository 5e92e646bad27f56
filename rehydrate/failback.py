"""Bringing disks and trees of a site that was overtaken to the other site's newest cut, soundly over crashes.

What is noted, and when, is decided here: failback.json is durable before the first byte changes, and says at
any time which cut the disks are, or between which ones. What differs is found and fetched by a pass (passes);
what the site's own journal tells stands in diverged; who owns the domain is not looked at (takeback).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from cdp_container.clock import Clock
from cdp_container.domain.carried import CarriedVolume, load_carried
from cdp_container.domain.contents import Contents
from cdp_container.domain.failback_note import FailbackNote, load_failback, save_failback
from cdp_container.domain.history import History
from cdp_container.domain.holding import Holding
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.image import Volume, on_branch
from cdp_container.domain.namespace import Tree
from cdp_container.domain.notes import load_notes
from cdp_container.domain.opening import is_superseded
from cdp_container.errors import ConfigInvalid, JournalDamaged, PositionUnknown, TargetNotEmpty, counted
from cdp_container.format.place import NOWHERE, Place
from rehydrate.anew import read_until_found
from rehydrate.container import Container
from rehydrate.delta import NONE, everything
from rehydrate.diverged import Diverged, evidence_name, move_aside
from rehydrate.doubts import SLACK_NS, doubts_of
from rehydrate.failback_trees import COARSE_SECONDS, TreesBack
from rehydrate.flow import Flow
from rehydrate.followed import Followed
from rehydrate.here import Here
from rehydrate.inplace import Disk, open_disk
from rehydrate.passes import Figures, Known, Sizes, bring, candidates
from rehydrate.plan import Choice
from rehydrate.points import Chosen, chosen_point, scope_of
from rehydrate.restore import Source
from rehydrate.unjournaled import unjournaled

TOUCH_NS: Final = 2_000_000_000
"""How often it is noted that we write: much less than what a disk may be younger than its last note."""
_TOLD: Final = "--compare-all was said"


@dataclass(frozen=True, slots=True)
class Words:
    """What an operator says about a failback.

    Attributes:
        accept_loss: the newest cut that is left in the store will do, where newer ones that were proven are
            gone.
        overwrite_unjournaled: what guests wrote past the journal, and is on these disks alone, may go.
        compare_all: nothing here is believed: every block is compared.
    """

    accept_loss: bool = False
    overwrite_unjournaled: bool = False
    compare_all: bool = False


NO_WORDS: Final = Words()


class Failback:
    """The disks of a site on their way to a cut; to be used as a context, with the agent's locks held.

    Args:
        here: this site.
        open_again: reads the container's history anew, with keys.
        holding: of this command; each pass places it, and drops it at its end.
        flow: how many requests are in flight.
        clock: of this machine.
        say: is given lines for people.
        words: what an operator said.
    """

    def __init__(
        self,
        here: Here,
        open_again: Callable[[], Container],
        holding: Holding,
        flow: Flow,
        clock: Clock,
        say: Callable[[str], None],
        words: Words = NO_WORDS,
    ) -> None:
        self._here = here
        self._open_again = open_again
        self._holding = holding
        self._container: Container | None = None
        self._flow = flow
        self._clock = clock
        self._say = say
        self._words = words
        self._stack = ExitStack()
        self._followed = Followed()
        self._disks: dict[bytes, Disk] = {}
        self._is_held = False
        self.note = load_failback(here.directory)
        self.figures = Figures()
        self.newest = NOWHERE
        self.pass_count = 0
        self.volumes: tuple[Volume, ...] = ()
        self.chosen_trees: tuple[Tree, ...] = ()
        self.trees = TreesBack(here, say)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._followed.close()
        self._stack.close()

    @property
    def evidence(self) -> Path | None:
        """Where the journal of the run that was overtaken is kept, once it was moved there."""
        return None if self.note is None else self._here.directory / self.note.evidence

    def pass_to(self, choice: Choice) -> Place:
        """Make the disks the chosen cut, durably; gives which one it is.

        Raises:
            ConfigInvalid: the volumes there are not those of this site.
            NoSuchPoint, DamagedObject, MissingObject and their kin: there is no such cut, or it is not sound.
            AlreadyRunning, TargetNotEmpty, TargetUnsuitable, LocalDiskFull, DeviceError: of a disk.
        """
        self._holding.place()
        place = read_until_found(lambda _: self._pass_to(choice), self._holding, self._is_moved, self._say)
        self._holding.drop()
        return place

    def _is_moved(self) -> bool:
        container = self._container
        return container is not None and is_superseded(container.store, container.history.owner)

    def _pass_to(self, choice: Choice) -> Place:
        container = self._container = self._open_again()
        self.newest = container.history.newest
        note = self.note
        if note is not None and note.at == _asked(container.history, choice) and self._is_still_all(note):
            return note.at
        contents = self._followed.at(container, scope_of(container.history, choice))
        chosen = self._chosen(container, contents, choice)
        self._holding.narrow(chosen.cut.place, container.history.owner.ledger)
        self._open_disks(chosen)
        if not (self._words.compare_all or (note is not None and (note.at or note.trees_ns))):
            self.trees.check_there(chosen)
        note = note or self._begin(container.history, contents, chosen)
        if self._words.compare_all and not self._is_held:
            note = replace(note, doubts=tuple((volume.space, _TOLD) for volume in chosen.volumes))
        move_aside(self._here.directory, self._here.directory / note.evidence)
        known = self._known(note, contents, chosen)
        sizes = Sizes(container.history, contents, chosen)
        found = {
            volume.space: candidates(contents, chosen, sizes, volume, known[volume.space])
            for volume in chosen.volumes
        }
        # Noted before the first byte: a pass over everything that ends early must be one again, though then
        # nothing may tell why.
        doubts = {space: "nothing was known of it" for space, blocks in found.items() if blocks is None}
        doubts |= dict(note.doubts)
        towards, now_ns = chosen.cut.place, self._clock.wall_ns()
        before = note
        note = replace(note, towards=towards, touched_ns=now_ns, doubts=tuple(doubts.items()))
        self._save(replace(note, trees_ns=note.trees_ns or now_ns) if chosen.trees else note)
        if chosen.trees and not note.trees_ns:
            self._clock.sleep(COARSE_SECONDS)  # so whatever has a time before the note is none of ours
        wanted = {
            volume.space: everything(volume.size_bytes) if blocks is None else blocks
            for volume in chosen.volumes
            for blocks in (found[volume.space],)
        }
        for volume in chosen.volumes:
            self._disks[volume.space].resize(volume.size_bytes)
        self.pass_count += 1
        source = Source(container.store, container.keys, contents, self._flow)
        compare_all = self._words.compare_all and not self._is_held
        self.trees.bring(source, container.history, chosen, before, compare_all, self._touch)
        self.figures += bring(source, chosen, wanted, self._disks, self._touch)
        return self._end(chosen)

    def looks(self, identity: AgentIdentity) -> tuple[CarriedVolume, ...]:
        """How each disk of agent.json looked when it was synced as the cut `note.at`."""
        assert self.note is not None, "begun"
        looked = {volume.space: volume for volume in self.note.volumes}
        return tuple(replace(looked[source.space], path=source.path) for source in identity.active.values())

    # --- one pass ----------------------------------------------------------------------------

    def _chosen(self, container: Container, contents: Contents, choice: Choice) -> Chosen:
        lost, newest = container.history.in_doubt, container.history.newest
        if lost is not None and choice.at is None and not self._words.accept_loss:
            hint = "bring back what is named from a replica or a version; or --accept-loss goes on from "
            hint += (
                f"{newest.epoch}.{newest.cut}: keep a copy of these disks first, they may hold what is gone"
            )
            raise type(lost)(lost.what, lost.why, hint)
        return chosen_point(container, contents, choice, self._words.accept_loss)

    def _end(self, chosen: Chosen) -> Place:
        for volume in chosen.volumes:
            self._disks[volume.space].sync()
        looks = tuple(self._disks[volume.space].look() for volume in chosen.volumes)
        assert self.note is not None, "begun"
        place = chosen.cut.place
        self._save(replace(self.note, at=place, towards=NOWHERE, volumes=looks, doubts=(), trees_ns=0))
        self._is_held, self.volumes, self.chosen_trees = True, chosen.volumes, chosen.trees
        return place

    def _save(self, note: FailbackNote) -> None:
        save_failback(self._here.directory, note)
        self.note = note

    def _touch(self) -> None:
        """Note that we write, now and then: whoever goes on can tell our writes from a stranger's.

        Raises HoldLost.
        """
        self._holding.check()
        assert self.note is not None, "begun"
        now_ns = self._clock.wall_ns()
        if not 0 <= now_ns - self.note.touched_ns < TOUCH_NS:
            self._save(replace(self.note, touched_ns=now_ns))

    def _open_disks(self, chosen: Chosen) -> None:
        """Every disk, before any is touched."""
        names = {volume.name for volume in chosen.volumes}
        tree_faults = self.trees.faults(chosen)
        faults = [
            f"{name}: it was removed at the other site: take it out"
            for name in sorted(self._here.configured or ())
            if name not in names
        ]
        for volume in chosen.volumes:
            if volume.name not in (self._here.configured or self._here.paths):
                faults.append(f"{volume.name}: nothing says where it lies here: name a file or device for it")
            elif volume.space not in self._disks and not faults and not tree_faults:
                disk = open_disk(Path(self._here.paths[volume.name]), volume.space)
                self._stack.callback(disk.close)
                self._disks[volume.space] = disk
        if faults or tree_faults:
            hint = "change the configuration of this site's agent (--config), and run this again"
            why = "\n".join([*faults, *tree_faults])
            raise ConfigInvalid("this site has not the domain's volumes and trees", why, hint)
        for volume in chosen.volumes:
            self._disks[volume.space].check_size(volume.size_bytes)

    # --- what is known of the disks ----------------------------------------------------------

    def _known(self, note: FailbackNote, contents: Contents, chosen: Chosen) -> dict[bytes, Known]:
        doubted = {space for space, _ in note.doubts}
        if note.at:
            return {
                volume.space: Known(
                    note.at
                    if volume.space not in doubted and self._is_still(note, volume, chosen)
                    else NOWHERE
                )
                for volume in chosen.volumes
            }
        nothing = {volume.space: Known(NOWHERE) for volume in chosen.volumes}
        if note.towards and not on_branch(note.towards, chosen.branch):
            return nothing  # what was written towards it is on no branch that is looked at
        here = self._here
        with Diverged(here.directory / note.evidence, here.identity.domain, here.boot) as diverged:
            fork = diverged.fork(contents, chosen.branch)
            if fork is None:
                return nothing
            indexes = {volume.space: here.index_of(volume) for volume in chosen.volumes}
            sizes = {
                index: volume.size_bytes
                for volume in chosen.volumes
                if (index := indexes[volume.space]) is not None
            }
            try:
                own = diverged.since(fork, sizes)
            except (JournalDamaged, PositionUnknown):
                return nothing
            last_ns = max(diverged.last_write_ns, note.touched_ns)
        return {
            volume.space: Known(fork.place, own.get(index, NONE))
            if (index := indexes[volume.space]) is not None
            and volume.space not in doubted
            and self._is_as_left(note, volume, last_ns)
            else Known(NOWHERE)
            for volume in chosen.volumes
        }

    def _is_as_left(self, note: FailbackNote, volume: Volume, last_ns: int) -> bool:
        """Whether nobody but the agent and we wrote a disk, as far as it can tell."""
        disk = self._disks[volume.space]
        if note.towards and disk.size_bytes != volume.size_bytes:
            return False  # what an interrupted pass has made of its size is not known
        return disk.mtime_ns is not None and disk.mtime_ns <= last_ns + SLACK_NS

    def _is_still(self, note: FailbackNote, volume: Volume, chosen: Chosen) -> bool:
        """Whether a disk is the cut `note.at`, but for what was written towards a later one of the branch."""
        disk = self._disks[volume.space]
        if not on_branch(note.towards, chosen.branch):
            return False  # that the cut itself still is on it, `candidates` looks
        if disk.is_device:
            return self._is_held  # else it does not tell who wrote it
        if note.towards:
            return self._is_as_left(note, volume, note.touched_ns)
        return disk.look() in note.volumes

    def _is_still_all(self, note: FailbackNote) -> bool:
        """Whether we hold disks that are `note.at`: our lock keeps agents out, but nobody else.

        Nothing of a tree tells that but a look at all of it.
        """
        looks = (disk.look() for disk in self._disks.values() if not disk.is_device)
        known = self._is_held and not note.towards and not self.chosen_trees
        return known and all(look in note.volumes for look in looks)

    # --- the first time ----------------------------------------------------------------------

    def _begin(self, history: History, contents: Contents, chosen: Chosen) -> FailbackNote:
        """Judge what is there, and note it durably. Nothing was changed until here."""
        here = self._here
        carried = load_carried(here.directory)
        with Diverged(here.directory, here.identity.domain, here.boot) as diverged:
            fork = diverged.fork(contents, chosen.branch)
            doubts = doubts_of(here, self._disks, diverged)
            beyond, blank = diverged.beyond(fork), diverged.is_blank
            self._ask(diverged, chosen)
        ours = [
            span.record.epoch for span in history.spans.values() if span.record.site == here.identity.site
        ]
        note = FailbackNote(evidence_name(here.directory, max(ours, default=0)), doubts=tuple(doubts.items()))
        if carried is not None and carried.domain == here.identity.domain and blank:
            # An agent never ran since the disks were made that cut: the looks tell, there is no journal to.
            note, doubts = replace(note, at=carried.place, volumes=carried.volumes, doubts=()), {}
        if fork is not None:
            note = replace(note, fork=fork.place)
        self._save(note)
        since = f"since cut {fork.place.epoch}.{fork.place.cut}" if fork else "in all"
        self._say(
            f"this site's own writes {since}: {counted(beyond.records, 'record')}, "
            f"{counted(beyond.written_bytes, 'byte')}; kept in {here.directory / note.evidence}"
        )
        if self._words.compare_all:
            self._say(f"everything is compared: {_TOLD}")
        elif fork is None and not note.at:
            self._say(
                f"everything is compared: {diverged.doubt or 'its journal does not reach back far enough'}"
            )
        for space, why in doubts.items() if fork and not self._words.compare_all else ():
            name = next(volume.name for volume in chosen.volumes if volume.space == space)
            self._say(f"all of {name} is compared: {why}")
        return note

    def _ask(self, diverged: Diverged, chosen: Chosen) -> None:
        """Raises TargetNotEmpty where only these disks hold what guests wrote, and nobody let that go."""
        written_ns = {space: disk.mtime_ns for space, disk in self._disks.items()}
        compared = load_notes(self._here.directory).episode
        lost = unjournaled(self._here, diverged.page, compared, written_ns)
        if lost is None:
            return
        why = f"guests' writes went past this site's journal, and are on these disks alone: {lost}"
        if not self._words.overwrite_unjournaled:
            point = f"{chosen.cut.place.epoch}.{chosen.cut.place.cut}"
            hint = "copy the disks first, if anybody may want it; then --overwrite-unjournaled"
            raise TargetNotEmpty(f"make these disks the cut {point}", why, hint)
        self._say(f"{why}; they are overwritten, as --overwrite-unjournaled says")


def _asked(history: History, choice: Choice) -> Place:
    """The cut that a choice names, where that is plain; NOWHERE where the volumes decide."""
    if choice.at is None:
        return history.newest
    return NOWHERE
