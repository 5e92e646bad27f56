"""A splitter without a streamer, for measuring: `python -m bench.splitter_alone HOME SIZE warm|cold`.

`warm`: everything is called proven a moment after it was written, so that journal files are recycled as they
are beside a streamer that keeps up. `cold`: nothing is, and every write needs new pages.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from cdp_agent.splitter.process import run_splitter
from cdp_agent.splitter.settings import SplitterSettings, VolumeSettings
from cdp_container.clock import SystemClock
from cdp_container.journal.shared import SharedPages, StreamerPage

PROVE_SECONDS = 0.5
LIMIT_BYTES = 64 << 30


def main() -> None:
    """See the module."""
    home, size_bytes, state = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    volume = VolumeSettings("disk", home / "disk.raw", size_bytes, 0, bytes(16))
    settings = SplitterSettings(home, bytes(range(16)), (volume,), LIMIT_BYTES, home / "s")

    def prove() -> None:
        pages = SharedPages(home / "shared")
        while True:
            time.sleep(PROVE_SECONDS)
            page = pages.splitter.read()
            if page is not None:
                pages.streamer.publish(StreamerPage(proven=page.tail))

    def opened() -> None:
        if state == "warm":
            threading.Thread(target=prove, daemon=True).start()

    sys.exit(run_splitter(settings, SystemClock(), on_opened=opened))


if __name__ == "__main__":
    main()
