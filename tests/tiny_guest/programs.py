"""Programs of this machine for the tiny guest, each with the libraries that it rests on: a part of an initrd.

Which programs a guest starts does not belong here (init.sh).
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.tiny_guest.make import archive

_LIBRARY = re.compile(r"(/\S+) \(0x")


def programs_archive(programs: Mapping[str, str]) -> bytes:
    """What an initrd is followed by, so that its guest has these programs.

    Args:
        programs: what they are called here, by their paths in the guest.
    """
    files: dict[str, bytes] = {}
    for there, name in programs.items():
        found = shutil.which(name)
        assert found is not None, f"mark the test as one that needs {name}"
        files[there] = Path(found).read_bytes()
        told = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        # The dynamic linker looks for them where they are here.
        files |= {path.lstrip("/"): Path(path).read_bytes() for path in _LIBRARY.findall(told)}
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    return gzip.compress(archive(sorted(folders), files), mtime=0)
