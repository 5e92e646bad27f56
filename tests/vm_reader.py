"""Reads configurations of VMs out of a container, knowing only docs/container-format.md and docs/vms.md.

    python vm_reader.py CONTAINER [--cut EPOCH.NUMBER] [--passphrase-file FILE]

Prints one JSON document: what each VM of the cut was, by its id.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

try:
    from tests.reader import FAULTS, Container, Cut, ReaderError, must
except ImportError:  # a program of its own, beside reader.py
    from reader import FAULTS, Container, Cut, ReaderError, must  # type: ignore[import-not-found, no-redef]


def vms(container: Container, cut: Cut) -> dict[str, dict[str, Any]]:
    """What the newest record of each VM says at a cut, of those that did not leave."""
    found: dict[bytes, dict[str, Any]] = {}
    for layer in container.history(cut.place):
        for name, key, value in layer.records:
            if name == b"vm":
                must(len(key) == 16, "has a VM whose id is none")
                found[key] = value
    return {vm.hex(): value for vm, value in found.items() if value}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("container", type=Path)
    parser.add_argument("--cut", metavar="EPOCH.NUMBER")
    parser.add_argument("--passphrase-file", type=Path, dest="phrase")
    args = parser.parse_args(arguments)
    keys = [path.relative_to(args.container).as_posix() for path in args.container.rglob("*")]
    try:
        phrase = args.phrase and args.phrase.read_bytes().decode().removesuffix("\n")
        container = Container(lambda name: (args.container / name).read_bytes(), lambda: keys, phrase, None)
        epoch, number = map(int, (args.cut or "0.0").split("."))
        cut = container.cut(epoch, number) if args.cut else container.newest_cut()
        with container.refusing():
            found = vms(container, cut)
            must(
                all(isinstance(value.get("description"), dict) for value in found.values()),
                "has a VM of none",
            )
            print(json.dumps(found, indent=2))
    except (ReaderError, *FAULTS) as error:
        print(f"REFUSED {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
