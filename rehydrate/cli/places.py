"""Where a failover puts things on this machine: its options, and a path for each volume and tree.

What is done with them does not belong here (failover).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdp_container.domain.image import Volume
from cdp_container.domain.namespace import Tree
from cdp_container.errors import TargetUnsuitable, UsageError
from rehydrate import agent_files, agent_start
from rehydrate.cli.targets import Targets, paths_of
from rehydrate.localio import os_errors
from rehydrate.points import RestorePlan


@dataclass(frozen=True, slots=True)
class Where:
    """What goes where on this machine. Either `to`, a directory, or `volumes`, each NAME=PATH.

    `trees`: likewise NAME=DIRECTORY, for those that do not go below `to`. `without_trees`: names of those
    that are not protected any more. `delete`: their directories may lose what the trees do not have.
    `best_effort`: that not everything could be set is no failure.
    """

    journal: Path
    to: Path | None
    volumes: list[str]
    config: Path | None
    socket: Path | None
    before: str | None
    after: str | None
    start: bool
    trees: tuple[str, ...] = ()
    without_trees: tuple[str, ...] = ()
    delete: bool = False
    best_effort: bool = False

    @property
    def config_path(self) -> Path:
        """Of the agent's configuration."""
        return self.journal / agent_files.CONFIG_NAME if self.config is None else self.config.absolute()


def check_where(where: Where) -> None:
    """Raises UsageError, AgentNotRunning: what can be known from the options alone."""
    neither = where.to is None and not where.volumes and not where.trees
    if neither or (where.to is not None and where.volumes):
        raise UsageError("choose where the volumes go", "give --to DIR, or --volume NAME=PATH for each")
    trees_given(where)
    if not where.start and where.after is not None:
        raise UsageError(
            "choose what to do", "--after is for when the agent runs, and --no-start starts none"
        )
    for option, command in (("--before", where.before), ("--after", where.after)):
        if command is not None:
            agent_start.check_hook(command, option)
    if where.start:
        agent_start.find_agent()


def paths_at(where: Where, made: RestorePlan) -> list[Path]:
    """Where each volume goes, in the plan's order. Raises UsageError, TargetUnsuitable."""
    if where.to is not None:
        return paths_of(made, Targets([], None, True, where.to.absolute(), force=False))
    given = _given(where.volumes, "--volume")
    names = [plan.volume.name for plan in made.volumes]
    if sorted(names) != sorted(given):
        why = f"the domain has {', '.join(names)}; given are {', '.join(given)}"
        raise UsageError("choose where the volumes go", why, "give --volume NAME=PATH for each, or --to DIR")
    paths = [given[name] for name in names]
    for planned, target in zip(made.volumes, paths, strict=True):
        _check_device_size(planned.volume, target)
    return paths


def _given(texts: Sequence[str], option: str) -> dict[str, Path]:
    given: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path or name in given:
            raise UsageError(f"read {option}", f"{text!r} is not NAME=PATH, or the name is there twice")
        given[name] = Path(path).absolute()
    return given


def trees_given(where: Where) -> dict[str, Path]:
    """The directories that were named for trees. Raises UsageError."""
    given = {name: Path(os.path.normpath(path)) for name, path in _given(where.trees, "--tree").items()}
    both = sorted(given.keys() & set(where.without_trees))
    if both:
        raise UsageError("choose trees", f"{', '.join(both)}: both --tree and --without-tree")
    return given


def tree_paths_at(where: Where, trees: Sequence[Tree]) -> list[Path]:
    """Where each tree goes, in their order. Raises UsageError."""
    given, what = trees_given(where), "choose where the trees go"
    names = [tree.name for tree in trees]
    unknown = sorted(given.keys() - set(names))
    missing = [name for name in names if name not in given]
    if unknown:
        raise UsageError(
            what, f"there is no tree {', '.join(unknown)}; there are: {', '.join(names) or 'none'}"
        )
    if missing and where.to is None:
        hint = "give --tree NAME=DIRECTORY for each; --without-tree NAME ends the protection of one"
        raise UsageError(what, f"the domain has {', '.join(missing)}, which would not be protected", hint)
    for name in missing:  # it comes from the container, so it must not lead out of the directory
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            why = f"the name {name!r} cannot be that of a directory"
            raise UsageError(what, why, "give --tree NAME=DIRECTORY")
    to = Path("/") if where.to is None else Path(os.path.normpath(where.to.absolute()))
    return [given.get(name, to / name) for name in names]


def _check_device_size(volume: Volume, path: Path) -> None:
    """An agent serves a disk whole, so that a larger device would be a larger volume."""
    if not path.is_block_device():
        return
    with os_errors(f"look at {path}"), path.open("rb") as device:
        size_bytes = device.seek(0, os.SEEK_END)
    if size_bytes != volume.size_bytes:
        why = f"{path} has {size_bytes} bytes, and the volume {volume.name} {volume.size_bytes}"
        raise TargetUnsuitable(
            "choose where the volumes go", why, "give a device of just that size, or a file"
        )
