"""Which volumes, trees and VMs agent.json names next, and how `reload` and a running splitter agree on it.

`reload` leaves its decision as agent.wanted-<name>.json. A splitter that runs takes it from there, and it
alone renames it to agent.json, in a time without writes, when nothing can fail any more: so agent.json always
names what is served, or what the next start serves, and a decision that was withdrawn cannot be done. What
does not belong here: opening disks (`splitter`), what the administrator sees (`cli.reload`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.domain.durable import replace_file, sync_directory
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    TreeIdentity,
    encode_identity,
    load_identity,
)
from cdp_container.domain.tree_settings import TreeSettings
from cdp_container.errors import BackingUnreadable, CdpError, ReloadRefused

WANTED_PREFIX: Final = "agent.wanted-"
WANTED_SUFFIX: Final = ".json"
SizeAndPath: TypeAlias = tuple[int, str]


def volumes_of(identity: AgentIdentity) -> tuple[VolumeSettings, ...]:
    """What the splitter serves by agent.json, in the order that journal records count by."""
    return tuple(
        VolumeSettings(source.name, Path(source.path), source.size_bytes, index, source.space)
        for index, source in identity.active.items()
    )


def removed_of(identity: AgentIdentity) -> frozenset[int]:
    """Indexes of the sources that are not protected any more."""
    return frozenset(range(len(identity.sources))) - frozenset(identity.active)


def changed_identity(
    identity: AgentIdentity, wanted: Mapping[str, SizeAndPath], entropy: Callable[[int], bytes]
) -> AgentIdentity:
    """agent.json with these volumes, given as size in bytes and path by their names.

    A source keeps its place for ever: what goes is marked, what comes is put behind all others.

    Raises BackingUnreadable where one would shrink, ReloadRefused where one is elsewhere now.
    """
    sources = [
        source if source.removed else _changed(source, wanted.get(source.name)) for source in identity.sources
    ]
    known = {source.name for source in sources if not source.removed}
    for name, (size_bytes, path) in wanted.items():
        if name not in known:
            sources.append(SourceIdentity(name, path, entropy(16), size_bytes))
    return replace(identity, sources=tuple(sources))


def changed_trees(
    identity: AgentIdentity, wanted: Sequence[TreeSettings], entropy: Callable[[int], bytes]
) -> AgentIdentity:
    """agent.json with these trees. A tree keeps its id, wherever its directory is; what goes is marked."""
    by_name = {tree.name: tree for tree in wanted}
    trees = [
        tree if tree.removed else _changed_tree(tree, by_name.pop(tree.name, None)) for tree in identity.trees
    ]
    trees += [_changed_tree(TreeIdentity(name, "", entropy(16)), new) for name, new in by_name.items()]
    return replace(identity, trees=tuple(trees))


def _changed_tree(tree: TreeIdentity, wanted: TreeSettings | None) -> TreeIdentity:
    if wanted is None:
        return replace(tree, removed=True)
    return replace(
        tree,
        path=wanted.path,
        include=tuple(wanted.include),
        exclude=tuple(wanted.exclude),
        one_file_system=wanted.one_file_system,
    )


def _changed(source: SourceIdentity, wanted: SizeAndPath | None) -> SourceIdentity:
    if wanted is None:
        return replace(source, removed=True)
    size_bytes, path = wanted
    what = f"cannot take over volume {source.name}"
    if path != source.path:
        raise ReloadRefused(
            what,
            f"it is {source.path} now, and the configuration says {path}",
            "stop guests and agent, move the disk, and start them again; or put the path back",
        )
    if size_bytes < source.size_bytes:
        raise BackingUnreadable(
            what,
            f"{path} has {size_bytes} bytes, but had {source.size_bytes}: a protected volume cannot shrink",
            "put it back to its size, or protect a smaller disk under another name",
        )
    if size_bytes == source.size_bytes:
        return source
    return replace(source, size_bytes=size_bytes, resized=source.resized + 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """Other volumes, as `reload` decided them. See `splitter.reloading.Decision`.

    `name` is never that of another decision: by it `reload` knows what came of its own.
    """

    directory: Path
    name: str
    before: AgentIdentity
    after: AgentIdentity

    @property
    def volumes(self) -> tuple[VolumeSettings, ...]:
        """All that are served from then on."""
        return volumes_of(self.after)

    @property
    def removed(self) -> frozenset[int]:
        """Indexes of the sources that are not."""
        return removed_of(self.after)

    def leave(self) -> None:
        """For the splitter that runs, in place of all that were left before. Raises CdpError."""
        withdraw_all(self.directory)
        replace_file(self._path, encode_identity(self.after))

    def withdraw(self) -> bool:
        """Nobody shall do it any more; False if it is done, or was withdrawn. Raises OSError."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        sync_directory(self.directory)
        return True

    def commit(self) -> None:
        """Make it what every start serves from here on, durably.

        Raises:
            ReloadRefused: it was withdrawn.
            OSError: it is as it was before.
        """
        path = self.directory / IDENTITY_NAME
        try:
            self._path.rename(path)
        except FileNotFoundError:
            raise ReloadRefused("nothing was changed", "the reload was given up meanwhile") from None
        try:
            sync_directory(self.directory)
        except OSError:
            try:
                replace_file(path, encode_identity(self.before))
            except CdpError:
                return  # whoever starts next reads this one, unless the power goes before a sync succeeds
            raise

    @property
    def _path(self) -> Path:
        return self.directory / f"{WANTED_PREFIX}{self.name}{WANTED_SUFFIX}"


def withdraw_all(directory: Path) -> None:
    """Whatever a reload left, nobody shall do it any more. Raises OSError."""
    for path in _left(directory):
        path.unlink(missing_ok=True)


def find_decision(directory: Path) -> Decision | None:
    """What was decided and is not done yet. Raises ConfigInvalid, ReloadRefused: it fits no more."""
    before = load_identity(directory)
    left = _left(directory)
    if not left:
        return None
    after = load_identity(directory, left[0].name)
    others = replace(after, sources=before.sources, trees=before.trees, vms=before.vms, disks=before.disks)
    if others != before or not _follows(before, after):
        left[0].unlink(missing_ok=True)
        raise ReloadRefused("cannot take over other volumes", "they were chosen for an older agent.json")
    name = left[0].name.removeprefix(WANTED_PREFIX).removesuffix(WANTED_SUFFIX)
    return Decision(directory, name, before, after)


def _left(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{WANTED_PREFIX}*{WANTED_SUFFIX}"))


def _follows(before: AgentIdentity, after: AgentIdentity) -> bool:
    """Whether every source has its place yet: an index must never mean another volume."""
    kept = [tree.tree for tree in after.trees[: len(before.trees)]]
    if kept != [tree.tree for tree in before.trees]:
        return False
    if [vm.vm for vm in after.vms[: len(before.vms)]] != [vm.vm for vm in before.vms]:
        return False
    if [disk.space for disk in after.disks[: len(before.disks)]] != [disk.space for disk in before.disks]:
        return False
    return len(before.sources) <= len(after.sources) and all(
        (old.space, old.path, old.name) == (new.space, new.path, new.name)
        and new.size_bytes >= old.size_bytes
        and new.removed >= old.removed
        for old, new in zip(before.sources, after.sources, strict=False)
    )
