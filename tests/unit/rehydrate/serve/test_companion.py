"""A `serve` beside a rehearsal ends with it, and one that was started by hand goes on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from rehydrate.serve.companion import PARENT_VARIABLE, end_with_parent

SECONDS_MAX = 60.0
CHILD = (
    "import os, signal; from rehydrate.serve.companion import end_with_parent; "
    "end_with_parent(os.environ); print('ready', flush=True); signal.pause()"
)
PARENT = (
    "import os, subprocess, sys; "
    "environment = {**os.environ, 'CDP_SERVE_PARENT': str(os.getpid() + int(sys.argv[2]))}; "
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], env=environment, "
    "stdout=subprocess.PIPE, start_new_session=True); child.stdout.readline(); "
    "print(child.pid, flush=True); child.wait()"
)


@pytest.mark.parametrize(("besides", "ends"), [(0, True), (1, False)])
def test_it_ends_when_the_one_that_it_is_for_is_killed(besides: int, ends: bool) -> None:
    words = [sys.executable, "-c", PARENT, CHILD, str(besides)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        handle = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            parent.wait(SECONDS_MAX)
            assert bool(select.select([handle], [], [], SECONDS_MAX if ends else 0.5)[0]) is ends
        finally:
            if not ends:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)


def test_without_the_word_nothing_is_done() -> None:
    end_with_parent({})
    end_with_parent({PARENT_VARIABLE: "x"})
