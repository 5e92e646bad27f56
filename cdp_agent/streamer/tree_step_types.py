"""What the streamer's step machine hears of the file trees' watcher, and asks of it. PURE: values only.

What a cut takes of it stands in `step_types`, as part of the cut.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TreesLooked:
    """What the watcher of the trees published.

    `ready`: it can be asked for what changed; else cuts go on without the trees. `changed`: something was
    done in them since it was asked last, or it has more. `anew`: it knows nothing of this epoch from us (any
    more), and is to be told in a sweep.
    """

    ready: bool
    changed: bool
    anew: bool = False


@dataclass(frozen=True, slots=True)
class TreesSwept:
    """The sweep ended. `done`: the watcher did it; `given`: there is something for the next cut."""

    done: bool
    given: bool = False


@dataclass(frozen=True, slots=True)
class SweepTrees:
    """Have the watcher read what is dirty, at no instant, while cuts go on without it. Reply: TreesSwept."""
