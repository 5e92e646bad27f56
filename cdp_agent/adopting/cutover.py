"""The cut-over of all disks of a VM: from the moment in which all are ready to what each one is then.

Until the first disk has its direct connection it is begun again later; then it succeeds, or all is to be
undone. A node that a guest may have already is never cut (`yank`): such a disk would give nothing but errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdp_agent.adopting import words
from cdp_agent.adopting.checks import Move
from cdp_agent.adopting.link import LinkLost, Qemu, Refused
from cdp_agent.adopting.seen import Seen, look
from cdp_agent.adopting.undoing import cut
from cdp_container.clock import Clock
from cdp_container.machine_errors import AdoptionPartly

CUT_SECONDS_MAX: Final = 5.0
"""From when the jobs are told to complete; a disk that is not cut over then is not."""
CANCEL_SECONDS_MAX: Final = 2.0
"""How long a cancelled job may take, before its connection is cut."""
END_SECONDS_MAX: Final = 30.0
"""And how long it may take then."""
POLL_SECONDS: Final = 0.02


class NotNow(Exception):
    """The disks were not cut over, all jobs go on, and it may be tried again; `args[0]` says why."""


def cut_over(qemu: Qemu, clock: Clock, moves: Sequence[Move], socket: str) -> None:
    """Cut all disks over to `socket`.

    Raises:
        NotNow: nothing was changed.
        AdoptionPartly: some are cut over and others are not.
        Refused: all jobs are to be cancelled.
        LinkLost: nobody knows.
    """
    _connect_all(qemu, moves, socket)
    for number, move in enumerate(moves):
        over = words.top(move.names.top, move.names.direct, move.disk.detect_zeroes)
        try:
            qemu.do("blockdev-reopen", {"options": [over]})
        except Refused as error:
            if number:  # to go back would need a flush of those before, which QEMU waits for
                raise
            _let_go(qemu, moves)
            raise NotNow(error.why) from error
    jobs = look(qemu.do).jobs
    late = [move for move in moves if move.names.job not in jobs or not jobs[move.names.job].is_ready]
    if late:
        raise Refused("cut the VM's disks over", f"{late[0].disk.name} is not ready any more")
    try:
        qemu.do_together([("block-job-complete", {"device": move.names.job}) for move in moves])
        _wait_for_ends(qemu, clock, moves, CUT_SECONDS_MAX)
    except LinkLost:
        qemu.connect_again()  # they were told, or they were not
        _wait_for_ends(qemu, clock, moves, CANCEL_SECONDS_MAX)
    settle(qemu, clock, moves)


def settle(qemu: Qemu, clock: Clock, moves: Sequence[Move]) -> None:
    """Cancel what did not complete, and ask what each disk is. Raises as `cut_over`, but for NotNow."""
    if not _wait_for_ends(qemu, clock, moves, 0.0):
        running = _running(look(qemu.do), moves)
        for move in running:
            _try(qemu, "block-job-cancel", {"device": move.names.job, "force": True})
        if not _wait_for_ends(qemu, clock, running, CANCEL_SECONDS_MAX):
            # A cancelled job never cuts over: nobody has its node, and nobody will.
            cut(qemu, [move.names.direct for move in _running(look(qemu.do), running)])
            _wait_for_ends(qemu, clock, running, END_SECONDS_MAX)
    over, others = sides(look(qemu.do), moves)
    if others and over:
        raise AdoptionPartly(
            "cut the VM's disks over",
            f"{', '.join(over)}: on their volumes now, and captured; {', '.join(others)}: as before",
        )
    if others:
        raise Refused("cut the VM's disks over", f"not done within {CUT_SECONDS_MAX:g} s: the agent hangs")


def sides(seen: Seen, moves: Sequence[Move]) -> tuple[list[str], list[str]]:
    """Names of disks that are cut over, and of those that are not. PURE."""
    now = {disk.device: disk.node for disk in seen.disks.values()}
    over = [move.disk.name for move in moves if now.get(move.disk.device) == move.names.top]
    return over, [move.disk.name for move in moves if move.disk.name not in over]


def _connect_all(qemu: Qemu, moves: Sequence[Move], socket: str) -> None:
    for number, move in enumerate(moves):
        node = words.connection(move.names.direct, socket, move.volume.name, words.RECONNECT_SECONDS)
        try:
            qemu.do("blockdev-add", node)
        except Refused as error:
            _let_go(qemu, moves[:number])
            raise NotNow(error.why) from error


def _let_go(qemu: Qemu, moves: Sequence[Move]) -> None:
    """Of direct connections that nothing uses yet."""
    cut(qemu, [move.names.direct for move in moves])
    for move in moves:
        qemu.do("blockdev-del", {"node-name": move.names.direct})


def _wait_for_ends(qemu: Qemu, clock: Clock, moves: Sequence[Move], seconds: float) -> bool:
    """Whether all of these jobs ended in time."""
    until_ns = clock.boottime_ns() + int(seconds * 1e9)
    while _running(look(qemu.do), moves):
        if clock.boottime_ns() >= until_ns:
            return False
        clock.sleep(POLL_SECONDS)
    return True


def _running(seen: Seen, moves: Sequence[Move]) -> list[Move]:
    jobs = seen.jobs
    return [move for move in moves if move.names.job in jobs and not jobs[move.names.job].is_ended]


def _try(qemu: Qemu, command: str, arguments: words.Arguments) -> None:
    try:
        qemu.do(command, arguments)
    except Refused:
        return  # it ended meanwhile: what became of it is asked next
