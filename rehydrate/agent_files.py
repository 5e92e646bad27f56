"""The files of the agent that goes on with restored disks: agent.json, its configuration, carried.json.

They are what `cdp-agent run` starts from; starting it does not belong here (agent_start), nor do notes.json's
facts, which the agent itself makes of carried.json.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cdp_container.domain.carried import Carried, look_at, save_carried
from cdp_container.domain.durable import remove_file, replace_file
from cdp_container.domain.failover_note import FailoverNote, load_note
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    TreeIdentity,
    encode_identity,
)
from cdp_container.domain.image import Volume
from cdp_container.domain.settings import AgentSettings, dump_settings, load_settings, parse_settings
from cdp_container.errors import AlreadyRunning, CdpError, ConfigInvalid, MissingObject, TargetNotEmpty
from cdp_container.format.place import Place
from cdp_container.format.seal import public_of
from rehydrate.container import Container

CONFIG_NAME: Final = "agent.yaml"
CREDENTIALS_NAME: Final = "credentials"
"""A writer's, where sealed ones are used; in the form of `~/.aws/credentials`."""
LOCK_NAME: Final = "lock"
"""What `cdp-agent run` holds in its journal directory."""
WATCHER_FOLDER: Final = "watcher"
INDEX_FILES: Final = ("index.db", "index.db-wal", "index.db-shm")
"""What an agent remembers of its trees, in its folder of the journal directory."""
_MODE: Final = 0o700
_SHOWN_MAX: Final = 3


def identity_of(
    container: Container,
    site: str,
    volumes: Sequence[Volume],
    paths: Sequence[Path],
    trees: Sequence[TreeIdentity] = (),
) -> AgentIdentity:
    """agent.json of a site that goes on with these volumes at these paths: the same spaces under its name.

    Likewise with these trees.

    Raises MissingObject where the domain's configuration is gone.
    """
    config, owner, keys = container.history.config, container.history.owner, container.keys
    if config is None:
        raise MissingObject("take the domain over", "its configuration is gone with domain/owner")
    sealed = keys.private_key is not None
    return AgentIdentity(
        domain=owner.domain,
        name=owner.name,
        site=site,
        encryption=config.encryption.value,
        public_key=public_of(keys.private_key) if keys.private_key is not None else b"",
        index_key=(keys.index_key or b"") if sealed else b"",
        key_block=config.key_block if sealed else b"",
        config_digest=owner.config,
        sources=tuple(
            SourceIdentity(volume.name, str(path), volume.space, volume.size_bytes)
            for volume, path in zip(volumes, paths, strict=True)
        ),
        trees=tuple(trees),
    )


def settings_of(
    identity: AgentIdentity,
    store: str,
    directory: Path,
    socket: Path | None,
    store_is_home: bool = False,
    lease_seconds: int = 0,
) -> AgentSettings:
    """A configuration for that agent, with our defaults. Raises ConfigInvalid where none is possible.

    Args:
        identity: of the agent.
        store: its address.
        directory: the journal directory.
        socket: where its exports listen; None is our default.
        store_is_home: the domain was taken over in another zone (`home.jump_of` above 0), where the agent
            would refuse to own it without an operator's word.
        lease_seconds: 0 is our default.
    """
    members: dict[str, object] = {
        "domain": identity.name,
        "site": identity.site,
        "store": store,
        "journal": {"directory": str(directory)},
        "volumes": [{"name": source.name, "path": source.path} for source in identity.sources],
        "encryption": identity.encryption,
    }
    if identity.active_trees:
        members["trees"] = [
            {
                "name": tree.name,
                "path": tree.path,
                "include": list(tree.include),
                "exclude": list(tree.exclude),
                "one_file_system": tree.one_file_system,
            }
            for tree in identity.active_trees
        ]
    if store_is_home:
        members["store_is_home"] = True
    if lease_seconds:
        members["lease"] = f"{lease_seconds}s"
    if socket is not None:
        members["socket"] = str(socket)
    try:
        made = AgentSettings.model_validate(members)
    except ValueError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ConfigInvalid("no configuration can be made for this site", faults) from error
    return parse_settings(dump_settings(made), "the configuration")


def chosen_settings(config: Path, wanted: AgentSettings) -> AgentSettings:
    """What an administrator prepared in the configuration's file, else what is wanted.

    Raises ConfigInvalid: what is there is for another domain, site, store, journal or for other volumes.
    """
    if not config.exists():
        _check_writable(config)
        return wanted
    found = load_settings(config)
    faults = [
        f"{what}: {theirs!r}, and it should be {ours!r}"
        for what, theirs, ours in (
            ("domain", found.domain, wanted.domain),
            ("site", found.site, wanted.site),
            ("store", found.store, wanted.store),
            ("encryption", found.encryption, wanted.encryption),
            ("journal.directory", found.journal.directory, wanted.journal.directory),
            ("volumes", _paths(found), _paths(wanted)),
            ("trees", _tree_paths(found), _tree_paths(wanted)),
        )
        if theirs != ours
    ]
    if wanted.store_is_home and not found.store_is_home:
        faults.append("store_is_home: false, and it should be true: this zone is not the domain's home")
    if wanted.socket is not None and found.socket != wanted.socket:
        faults.append(f"socket: {found.socket!r}, and it should be {wanted.socket!r}")
    if faults:
        why = "\n".join(["it is there already, and does not fit:", *faults])
        raise ConfigInvalid(f"{config} is refused", why, "correct it, remove it, or name another: --config")
    return found


def _paths(settings: AgentSettings) -> dict[str, str]:
    return {volume.name: volume.path for volume in settings.volumes}


def _tree_paths(settings: AgentSettings) -> dict[str, str]:
    return {tree.name: tree.path for tree in settings.trees}


def _check_writable(config: Path) -> None:
    directory = config.parent
    while not directory.exists():
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigInvalid(f"cannot write {config}", f"{directory} is no directory that we may write to")


def check_directory(directory: Path, config: Path, domain: bytes, site: str) -> FailoverNote | None:
    """The note that the directory holds, if a failover of this domain to this site was interrupted there.

    Raises TargetNotEmpty where it holds anything else, ConfigInvalid.
    """
    what = f"cannot fail over with the journal directory {directory}"
    note = load_note(directory)
    if note is not None:
        if (note.domain, note.site) != (domain, site):
            why = f"it is of an interrupted failover of domain {note.domain.hex()} to site {note.site!r}"
            raise TargetNotEmpty(what, why, "choose another --journal")
        return note
    if not directory.is_dir():
        return None
    ours = (LOCK_NAME, CREDENTIALS_NAME)  # as a try that was refused left them
    held = sorted(path.name for path in directory.iterdir() if path != config and path.name not in ours)
    if IDENTITY_NAME in held:
        hint = "`rehydrate failback` brings an agent's own disks back to the newest cut; else choose another"
        raise TargetNotEmpty(what, "it belongs to an agent", hint)
    if held:
        why = f"it holds {', '.join(held[:_SHOWN_MAX])}{' and more' if len(held) > _SHOWN_MAX else ''}"
        raise TargetNotEmpty(what, why, "choose another --journal, or an empty one")
    return None


def make_directory(directory: Path) -> None:
    """The journal directory, and those above it. Raises CdpError."""
    try:
        directory.mkdir(mode=_MODE, parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or "refused"
        raise CdpError(f"cannot create {directory}", why, "choose another --journal") from error


@contextmanager
def journal_lock(directory: Path) -> Iterator[None]:
    """Keep agents and others like us out of a journal directory. Raises AlreadyRunning, CdpError."""
    path = directory / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CdpError(f"cannot lock {path}", error.strerror or "refused", "check the directory") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            why = f"process {holder} holds it: an agent, or another failover"
            raise AlreadyRunning(f"cannot lock {path}", why, "stop it first, or wait for it") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def is_locked(directory: Path) -> bool:
    """Whether an agent, or another of us, works in a journal directory."""
    try:
        with journal_lock(directory):
            return False
    except AlreadyRunning:
        return True


def write_agent(directory: Path, identity: AgentIdentity, config: Path, settings: AgentSettings) -> None:
    """agent.json and the configuration, durably; both modes 0600. Raises LocalDiskFull, CdpError."""
    replace_file(directory / IDENTITY_NAME, encode_identity(identity))
    if not config.exists():
        make_directory(config.parent)
        replace_file(config, dump_settings(settings))


def drop_index(directory: Path) -> None:
    """What the agent remembers of its trees, which are another cut now: it is made anew from the container.

    Raises CdpError.
    """
    for name in INDEX_FILES if (directory / WATCHER_FOLDER).is_dir() else ():
        remove_file(directory / WATCHER_FOLDER / name)


def carry(directory: Path, identity: AgentIdentity, place: Place) -> None:
    """carried.json: the disks hold this cut as they are now. After their fsync, and the last of all files.

    Raises BackingUnreadable, LocalDiskFull, CdpError.
    """
    looked = tuple(look_at(source.path, source.space) for source in identity.active.values())
    save_carried(directory, Carried(identity.domain, place, looked))


def hook_environment(
    identity: AgentIdentity, settings: AgentSettings, epoch: int, place: Place
) -> Mapping[str, str]:
    """What a hook is told; `epoch` 0 before one was claimed."""
    return {
        "CDP_DOMAIN": identity.name,
        "CDP_DOMAIN_ID": identity.domain.hex(),
        "CDP_SITE": identity.site,
        "CDP_STORE": settings.store,
        "CDP_EPOCH": str(epoch) if epoch else "",
        "CDP_POINT": f"{place.epoch}.{place.cut}",
        "CDP_SOCKET": settings.socket_path,
        "CDP_JOURNAL": settings.journal.directory,
    }
