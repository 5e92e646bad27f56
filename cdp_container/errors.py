"""Every error that an administrator can meet, with its exit code and its hint.

One tree, so that the exit codes are unique and the table in docs/exit-codes.md can be
generated from it. Pure: no I/O, no logging. What does not belong here: faults of our own
code (those are assertions) and the mapping of a library's exceptions (that stands at the
edge which calls the library).

A message has three parts: `what` failed, `why`, and a `hint` of what to do. None of them may
ever hold a secret.
"""

from __future__ import annotations

from typing import ClassVar


class CdpError(Exception):
    """The root: something failed that has no better name.

    Args:
        what: the operation that failed, as a short noun phrase or sentence without a full stop.
        why: the reason, as the layer that noticed it knows it.
        hint: what the reader can do next; the class's own hint where none is given.
    """

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "this is unexpected: please report it with the command that you ran"

    def __init__(self, what: str, why: str, hint: str | None = None) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.hint = hint if hint is not None else self.default_hint


def counted(count: int, noun: str) -> str:
    """`1 segment`, `2 segments`: how messages count what takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# --- 2: how we were called -------------------------------------------------------------------


class UsageError(CdpError):
    """The command line does not make sense."""

    exit_code = 2
    default_hint = "run the command with --help"


class ConfigInvalid(CdpError):
    """The configuration has faults; `why` lists all of them, one a line, each with its place."""

    exit_code = 4
    default_hint = "correct the named places and run `cdp-agent check-config`"


# --- 3: done, but not whole ------------------------------------------------------------------


class Incomplete(CdpError):
    """Finished, but not all is well: status behind target; verify found faults in what no point needs."""

    exit_code = 3
    default_hint = "read the report above: it names what is missing"


# --- 10..19: there is no such thing ----------------------------------------------------------


class NotFound(CdpError):
    """The store has no object under this key."""

    exit_code = 10
    default_hint = "check the address; `rehydrate domains` lists what a store holds"


class NoSuchBucket(CdpError):
    """The store has no such bucket (or directory).

    No kind of NotFound: where a key is free, a new object may be; where the bucket is gone, nothing is known.
    """

    exit_code = 11
    default_hint = "create the bucket, or correct its name in the address"


class NoSuchDomain(NotFound):
    """At this address there is no container of a protection domain."""

    exit_code = 12
    default_hint = "check the address; `rehydrate domains` lists the containers below a prefix"


class NoSuchPoint(NotFound):
    """The container has no such recovery point."""

    exit_code = 13
    default_hint = "`rehydrate points` lists what can be restored"


class NoSuchVolume(NotFound):
    """The domain has no such volume at this point."""

    exit_code = 14
    default_hint = "`rehydrate points` names the volumes of each point"


class NoSuchVm(NotFound):
    """The domain has no such VM at this point."""

    exit_code = 15
    default_hint = "`rehydrate show ADDRESS vms` names the VMs of a point"


# --- 20..29: the container is not what it should be --------------------------------------------


class DamagedObject(CdpError):
    """An object's bytes are not what was written: a digest, checksum, seal or structure is wrong."""

    exit_code = 20
    default_hint = "fetch it again or from a replica; `rehydrate verify` names everything that is damaged"


class MissingObject(CdpError):
    """An object that the chosen point needs is not in the store and was never collected."""

    exit_code = 21
    default_hint = "name an earlier point with --at, or bring the object back from a replica or a version"


class NewerFormat(CdpError):
    """The object is of a format version, or has a critical part, that this release does not know."""

    exit_code = 22
    default_hint = (
        "install the release that wrote it (its version stands in the object's header), or a later one"
    )


class ForeignObject(CdpError):
    """The object is sound, but belongs to another domain, or stands under a key that is not its own."""

    exit_code = 23
    default_hint = "check that this prefix belongs to one domain alone"


class LimitExceeded(CdpError):
    """A named limit of the format would be, or is, exceeded."""

    exit_code = 24
    default_hint = (
        "docs/container-format.md lists the limits; an object beyond them was not written by this system"
    )


class RecordTooLarge(LimitExceeded):
    """One record is larger than a segment may carry."""

    exit_code = 25
    default_hint = "shorten the record: docs/container-format.md, Limits"


class RestoredWithDamage(CdpError):
    """The restore went on despite damage, as it was told to: what it could not rebuild is in a map."""

    exit_code = 26
    default_hint = "the map beside the target lists every byte that is lost or doubtful, and why"


class PointsDamaged(CdpError):
    """`verify` has read everything, and recovery points cannot be restored whole."""

    exit_code = 27
    default_hint = (
        "bring what is named back from a replica or a version; "
        "`restore --on-damage map` restores what is left"
    )


class ChecksFailed(CdpError):
    """A DR-test restored everything, and a check of what it restored failed."""

    exit_code = 28
    default_hint = "the report names each check with what it printed; --keep leaves what was restored"


# --- 30..39: keys and credentials ------------------------------------------------------------


class WrongPassphrase(CdpError):
    """The passphrase does not open the domain's key."""

    exit_code = 30
    default_hint = "the key check on the recovery kit tells which domain a passphrase belongs to"


class KeyMissing(CdpError):
    """The container is encrypted and no passphrase or key was given, or the agent's key file is absent."""

    exit_code = 31
    default_hint = "give --passphrase-file, or set CDP_PASSPHRASE"


class AccessDenied(CdpError):
    """The store refused our credentials, or they do not allow this operation."""

    exit_code = 32
    default_hint = "check the credentials of the profile or environment that the address uses"


# --- 40..49: the store -----------------------------------------------------------------------


class StoreUnavailable(CdpError):
    """The store did not answer, or answered with an error of its own; whether it acted is not known."""

    exit_code = 40
    default_hint = "check the endpoint and the network; nothing was lost, run the command again"
    retry_after_seconds: float | None = None
    """How long the store asked us to wait, where it said so."""


class StoreThrottled(StoreUnavailable):
    """The store asks us to slow down."""

    exit_code = 41
    default_hint = "wait, or raise the store's request limits"


class StoreRefused(CdpError):
    """The store does not keep its word (conditional writes, read-after-write), so it cannot be trusted."""

    exit_code = 42
    default_hint = "use a store with atomic conditional writes; `cdp-agent attest` says what failed"


class StoreFull(CdpError):
    """The store has no room (or no quota) left."""

    exit_code = 43
    default_hint = "make room or raise the quota; writes wait in the journal until then"


class PreconditionFailed(CdpError):
    """A create-only or compare-and-swap write met another version of the object."""

    exit_code = 44
    default_hint = "somebody else changed the object: read it again and decide anew"


class Contention(CdpError):
    """The store saw two conditional writes at once and did neither (409): try again."""

    exit_code = 45
    default_hint = "run the command again"


class ContainerExists(CdpError):
    """`init` found a container at this address."""

    exit_code = 46
    default_hint = "choose another prefix, or go on with the container that is there"


class HoldLost(CdpError):
    """The hold of this reader was taken out of the roster: what it reads may be collected."""

    exit_code = 47
    default_hint = "run the command again: it holds anew, and reads what is there then"


# --- 50..59: ownership -----------------------------------------------------------------------


class OwnedElsewhere(CdpError):
    """Another site owns the domain, or it changed hands while it was looked at: nothing was taken over."""

    exit_code = 50
    default_hint = "`rehydrate history` tells who owns it; a release or a lease that passes gives it up"


class Fenced(CdpError):
    """This run was overtaken: another run owns the domain now, and this one never writes again."""

    exit_code = 51
    default_hint = "the journal is kept; `cdp-agent status` says how much lies beyond the end"


class HookFailed(CdpError):
    """A command that was to be run before or after a failover failed."""

    exit_code = 55
    default_hint = "mend what it does, and run it by hand or the whole command again"


class RequestDenied(CdpError):
    """The owner of the domain answered no to a request for it."""

    exit_code = 57
    default_hint = "talk to the owner; `rehydrate failover` says how to take over without its consent"


class RequestClosed(CdpError):
    """The request cannot be answered: it was already, is too old, or was asked of another owner."""

    exit_code = 58
    default_hint = "`cdp-agent owner` lists them and says who owns the domain; the other site can ask again"


class NotHome(CdpError):
    """The store is another zone than the domain's home: it may not know who owns the domain now."""

    exit_code = 59
    default_hint = (
        "use the home's address; `store_is_home: true` in the configuration says that this is the home by "
        "another name, which the owner then pins; `rehydrate failover --force` takes over in another zone"
    )


# --- 60..79: this machine --------------------------------------------------------------------


class AlreadyRunning(CdpError):
    """Another process holds the lock of this journal directory, image or restore target."""

    exit_code = 60
    default_hint = "stop that process first; of a disk, find it with `fuser` or `lsof`"


class BackingUnreadable(CdpError):
    """A backing file or device is absent, or cannot be opened or read."""

    exit_code = 61
    default_hint = "check the path and its permissions"


class LocalDiskFull(CdpError):
    """The file system of a target, journal or directory store is full."""

    exit_code = 62
    default_hint = "make room and run the command again"


class TargetNotEmpty(CdpError):
    """The target already holds something, or is in use."""

    exit_code = 63
    default_hint = "choose another target, or say --force to overwrite exactly what is named"


class TargetUnsuitable(CdpError):
    """The target is too small, of the wrong kind, or cannot be written."""

    exit_code = 64
    default_hint = "choose another target"


class JournalDamaged(CdpError):
    """The journal holds a record that neither a torn tail nor an old generation explains."""

    exit_code = 65
    default_hint = (
        "keep a copy of the journal directory as evidence; to go on with the disk as it is, empty "
        "its folder journal/ and run `cdp-agent run --keep-disk`"
    )


class BackingChanged(CdpError):
    """The backing disk was changed while the agent was not running."""

    exit_code = 66
    default_hint = (
        "`cdp-agent run --redo` puts the journal over it; `--keep-disk` keeps it as it is; both compare it"
    )


class PositionUnknown(CdpError):
    """The newest cut's journal position is not in this journal: another or reverted host, or a power loss."""

    exit_code = 67
    default_hint = "be sure that no other agent writes this domain; then `cdp-agent run --full-copy`"


class JournalFull(CdpError):
    """The journal reached its limit and can hold no further write."""

    exit_code = 68
    default_hint = "restore the connection to the store, or raise journal.limit"


class DeviceError(CdpError):
    """The local disk failed an operation (EIO and its kin)."""

    exit_code = 69
    default_hint = "check the disk and the kernel log"


class ReloadRefused(CdpError):
    """A running agent could not take over other volumes; it goes on with those that it had."""

    exit_code = 71
    default_hint = "mend what it names, then run `cdp-agent reload` again"


class VolumesChanged(CdpError):
    """The splitter serves other volumes, or other disks, than this run of the streamer knows."""

    exit_code = 72
    default_hint = (
        "nothing: the streamer begins anew; if it stays so, a disk was replaced: put it back, or start again"
    )


class DomainReleased(CdpError):
    """This site gave its domain to another one, or is about to: nothing new can be asked of its agent."""

    exit_code = 56
    default_hint = "`cdp-agent release --cancel` takes it back while the other site has not claimed it"


class ReleaseRefused(CdpError):
    """The domain cannot be given to another site now, or taken back; nothing was changed."""

    exit_code = 73
    default_hint = "`cdp-agent status` tells what is in the way"


class CollectionStopped(CdpError):
    """A pass of collection ended early, on a doubt or a refusal; the next one begins anew."""

    exit_code = 78
    default_hint = "nothing was deleted that is still needed; `cdp-agent gc` tries again"


class ObjectLocked(CdpError):
    """The store keeps an object until its lock ends: it cannot be deleted before.

    `until_ns`: when that is, nanoseconds since 1970 by the store's clock; None where nobody knows.
    """

    exit_code = 79
    default_hint = "nothing is wrong: collection deletes it once the lock has ended"
    until_ns: int | None = None


class RenderRefused(CdpError):
    """A VM cannot be written down for a hypervisor of this site: something that it needs was not said."""

    exit_code = 74
    default_hint = "docs/vms.md tells what a rendering needs"


class RunbookUnfit(CdpError):
    """The runbook does not fit the container at the point, or this machine; all faults are named."""

    exit_code = 75
    default_hint = "correct the runbook, or bring what is missing to this machine, and check again"


class WatcherFailed(CdpError):
    """The watcher of file trees is not there, does not answer, or could not do what it was asked for."""

    exit_code = 76
    default_hint = "`cdp-agent status` says which trees are not protected; the watcher starts again by itself"


class HypervisorFailed(CdpError):
    """A hypervisor could not be asked for the configuration of a VM, or said what makes no sense."""

    exit_code = 77
    default_hint = "what was known of the VM stays protected; `cdp-agent describe` asks again"


class AgentNotRunning(CdpError):
    """The command needs a running agent and there is none in this journal directory."""

    exit_code = 70
    default_hint = "start it with `cdp-agent run`"


# --- 100..109: images --------------------------------------------------------------------------


class ExportFailed(CdpError):
    """An image of a volume could not be made: `qemu-img` is not here, or it failed."""

    exit_code = 100
    default_hint = "nothing has the image's name; mend what it names and run the command again"
