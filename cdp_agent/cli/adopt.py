"""The first `run` after a failover or failback: which volumes hold the cut that carried.json names.

Those are whole from the start, and what the streamer makes of that stands in `streamer.resume`. Writing
carried.json does not belong here (`rehydrate`).
"""

from __future__ import annotations

from pathlib import Path

from cdp_container.domain.carried import Carried, believe_carried, load_carried
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.errors import ConfigInvalid


def adopt_carried(directory: Path, identity: AgentIdentity, ran: bool) -> bool:
    """Take carried.json over, durably, before anything opens a volume; whether there was one.

    `ran`: whether a splitter ever ran in this directory.

    It begins the agent anew: of the notes only the nonces stay, so that what was fenced or released is no
    more. A volume that was touched since is not whole, and compared.

    Raises ConfigInvalid: it is damaged, of another domain, or stands beside the journal of an earlier time.
    """
    carried = load_carried(directory)
    if carried is None:
        return False
    what = f"cannot take over what {directory} was prepared for"
    if carried.domain != identity.domain:
        why = f"its carried.json is of the domain {carried.domain.hex()}"
        raise ConfigInvalid(what, why, "choose another journal directory")
    if ran:
        # Its records would be put over the disks, and sent as if they were newer than the cut.
        why = "it holds the journal of an earlier time"
        raise ConfigInvalid(what, why, "run `rehydrate failback` (or `failover`) again: it was interrupted")
    whole = frozenset(
        source.whole_id
        for source in identity.active.values()
        if _still_holds(carried, source.space, source.path)
    )
    save_notes(directory, Notes(nonces=load_notes(directory).nonces, whole=whole, carried=carried.place))
    believe_carried(directory)
    return True


def _still_holds(carried: Carried, space: bytes, path: str) -> bool:
    return any(
        volume.is_untouched for volume in carried.volumes if (volume.space, volume.path) == (space, path)
    )


def touched_since(carried: Carried | None, identity: AgentIdentity, whole: frozenset[bytes]) -> list[str]:
    """The names of volumes that were whole when the run began, and are not what they were.

    `carried`: what the run believed (`load_believed`); without it none can be known.
    """
    return [
        source.name
        for source in identity.active.values()
        if source.whole_id in whole
        if carried is None or not _still_holds(carried, source.space, source.path)
    ]
