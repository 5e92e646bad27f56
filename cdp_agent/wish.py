"""wish.json: what an operator asked for at a start, kept until the splitter has done it.

A start can die before it did anything; the next one must not forget that the disk was to be kept. `run`
writes the wish before it starts its children, the splitter's process takes it away once its page
is durable. Doing it twice does no harm, as no export opens before the copy that each wish brings.
What does not belong here: how it is done (cdp_agent/splitter/opening).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from cdp_container.domain.durable import replace_file, sync_directory
from cdp_container.errors import ConfigInvalid

WISH_NAME: Final = "wish.json"
WISH_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Wish:
    """How to mend what is not clear at the start.

    Every wish has the volumes copied again: a disk that was changed without the agent differs from the
    container, whether the journal is put over it or not.

    Attributes:
        redo: put the journal over a disk that was changed behind our back.
        full_copy: forget the journal so far.
        keep_disk: the disk is right as it is: neither check nor redo.
    """

    redo: bool = False
    full_copy: bool = False
    keep_disk: bool = False

    def __bool__(self) -> bool:
        """Whether anything is wished for."""
        return self.redo or self.full_copy or self.keep_disk

    def __str__(self) -> str:
        """As it was said on the command line."""
        said = {"--redo": self.redo, "--full-copy": self.full_copy, "--keep-disk": self.keep_disk}
        return " ".join(option for option, wanted in said.items() if wanted)


def load_wish(directory: Path) -> Wish:
    """The wish that stands in a journal directory. Raises ConfigInvalid."""
    path = directory / WISH_NAME
    try:
        with path.open("rb") as file:
            members = orjson.loads(file.read(WISH_BYTES_MAX))
        return Wish(bool(members["redo"]), bool(members["full_copy"]), bool(members["keep_disk"]))
    except FileNotFoundError:
        return Wish()
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigInvalid(
            f"{path} is refused",
            f"it is damaged ({type(error).__name__})",
            "remove it and say the wish again",
        ) from error


def save_wish(directory: Path, wish: Wish) -> None:
    """Make a wish durable. Raises LocalDiskFull, CdpError."""
    members = {"redo": wish.redo, "full_copy": wish.full_copy, "keep_disk": wish.keep_disk}
    replace_file(directory / WISH_NAME, orjson.dumps(members))


def forget_wish(directory: Path) -> None:
    """The wish is fulfilled. Raises OSError."""
    (directory / WISH_NAME).unlink(missing_ok=True)
    sync_directory(directory)
