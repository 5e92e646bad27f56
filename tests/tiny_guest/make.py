"""Gets and makes the tiny guest's kernel and initrd, once (`python3 tests/tiny_guest/make.py`).

The kernel and busybox come from the distribution's own packages, which are downloaded and unpacked but not
installed: no root is needed where apt knows its packages. All is kept in `build/tiny-guest/`; what is there
is checked, and made again where it is not whole. Where it cannot be had, this says why and does not fail: the
tests that want a guest are left out then, and the summary of the tests says so.

`make test` runs it before there is a virtual environment: the standard library is all that it uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "tiny-guest"
KERNEL = CACHE / "vmlinuz"
INITRD = CACHE / "initrd.gz"
BUSYBOX = CACHE / "busybox"
INIT = Path(__file__).with_name("init.sh")

KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic")
"""Of Debian, and of Ubuntu: each names the newest one."""
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "af_packet")
"""What the guest needs, where it is no part of the kernel itself."""
ON_DEMAND = ("efivarfs", "virtio_console")
"""What it loads where it is wanted."""
APT_SECONDS_MAX = 300.0

_DEPENDS = re.compile(rb"\0depends=([a-z0-9_,-]*)\0")
_FILE_MODE = 0o100755


class NotHereError(Exception):
    """Why there is no tiny guest on this machine."""


# --- what is there --------------------------------------------------------------------------------


def is_ready() -> bool:
    """Whether the guest is there, made anew from what was downloaded where its script has changed."""
    if is_whole():
        return True
    if not list(CACHE.glob("packages/*.deb")):
        return False
    try:
        make()
    except (NotHereError, OSError):
        return False
    return True


def is_whole() -> bool:
    """Whether all files are there, as they were made, and by the script as it is now."""
    try:
        made = json.loads((CACHE / "made.json").read_bytes())
        return bool(made["recipe"] == _recipe() and made["files"] == _digests())
    except (OSError, ValueError, KeyError):
        return False


def _recipe() -> str:
    return hashlib.sha256(INIT.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def _digests() -> dict[str, str]:
    files = (KERNEL, INITRD, BUSYBOX)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- making ---------------------------------------------------------------------------------------


def make() -> None:
    """Make what is not whole; another process that is at it is waited for.

    Raises:
        NotHereError: the packages cannot be had here.
        OSError: the folder cannot be written.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_whole():
            return
        try:
            _put_together_from(sorted((CACHE / "packages").glob("*.deb")))
        except NotHereError:
            _put_together_from(_fetched())  # there was none, or one that is damaged
        made = {"recipe": _recipe(), "files": _digests()}
        _keep("made.json", json.dumps(made).encode())


def _put_together_from(packages: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="unpacked-") as folder:
        for package in packages:
            _run("dpkg-deb", "-x", str(package), folder)
        _put_together(Path(folder))


def _fetched() -> Sequence[Path]:
    """The packages, downloaded: all of them, or none where one cannot be had."""
    kept = CACHE / "packages"
    for program in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        if shutil.which(program) is None:
            raise NotHereError(f"{program} is not here: this is no Debian or Ubuntu")
    if (architecture := _run("dpkg", "--print-architecture").strip()) != "amd64":
        raise NotHereError(f"its kernel is for amd64, and this is {architecture}")
    shutil.rmtree(kept, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="downloaded-") as folder:
        first = Path(folder) / "packages"
        first.mkdir()
        try:
            _download(first)
        except NotHereError:
            if os.geteuid() != 0:
                raise
            # It has yet to learn of packages.
            _run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update")
            _download(first)
        first.rename(kept)
    return sorted(kept.glob("*.deb"))


def _download(folder: Path) -> None:
    _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *_names(), cwd=folder)


def _names() -> list[str]:
    """The packages' names in this release."""
    for name in KERNEL_PACKAGES:
        told = subprocess.run(["apt-cache", "depends", name], capture_output=True, text=True).stdout
        found = re.search(r"Depends: linux-image-(?:unsigned-)?(\d\S+)", told)
        if found:
            image, modules = f"linux-image-{found[1]}", f"linux-modules-{found[1]}"
            known = subprocess.run(["apt-cache", "show", modules], capture_output=True).returncode == 0
            return ["busybox-static", image, *([modules] if known else [])]
    raise NotHereError(f"apt knows none of {', '.join(KERNEL_PACKAGES)}")


def _put_together(unpacked: Path) -> None:
    kernels = sorted(unpacked.glob("boot/vmlinuz-*"))
    if not kernels:
        raise NotHereError("the packages hold no kernel")
    busybox = _first_of(unpacked / "bin/busybox", unpacked / "usr/bin/busybox")
    release = kernels[-1].name.removeprefix("vmlinuz-")
    modules = modules_of(unpacked, release, MODULES)
    extra = {name: modules_of(unpacked, release, (*MODULES, name)) for name in ON_DEMAND}
    folders = ("bin", "lib", "proc", "sys", "dev", "mnt", "log", "tmp")
    files = {"bin/busybox": busybox.read_bytes(), "init": INIT.read_bytes()}
    for found in (modules, *extra.values()):
        files |= {f"lib/{name}.ko": content for name, content in found.items()}
    files["lib/modules"] = "".join(f"{name}.ko\n" for name in modules).encode()
    for wanted, found in extra.items():
        more = [name for name in found if name not in modules]
        files[f"lib/modules.{wanted}"] = "".join(f"{name}.ko\n" for name in more).encode()
    _keep(KERNEL.name, kernels[-1].read_bytes())
    _keep(BUSYBOX.name, files["bin/busybox"])
    BUSYBOX.chmod(0o755)
    _keep(INITRD.name, gzip.compress(archive(folders, files), mtime=0))


def modules_of(unpacked: Path, release: str, names: Sequence[str]) -> dict[str, bytes]:
    """Modules that are no part of the kernel itself, each after those that it rests on."""
    root = _first_of(unpacked / "lib/modules" / release, unpacked / "usr/lib/modules" / release)
    built_in = {_module(line) for line in (root / "modules.builtin").read_text().split()}
    paths = {_module(path.name): path for path in root.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name in built_in:
            return
        if name not in paths:
            raise NotHereError(f"the kernel has no module {name}")
        content = _content(paths[name])
        needed = _DEPENDS.search(content)
        for other in needed[1].decode().split(",") if needed else ():
            if other:
                add(other.replace("-", "_"))
        found[name] = content

    for name in names:
        add(name)
    return found


def _first_of(*paths: Path) -> Path:
    for path in paths:
        if path.exists():
            return path
    raise NotHereError(f"the packages hold no {paths[0].name}")


def _module(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    if path.name.endswith(".ko"):
        return path.read_bytes()
    if path.name.endswith(".xz"):
        return lzma.decompress(path.read_bytes())
    return _run_bytes("zstd", "-dcq", str(path))


def archive(folders: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """A cpio archive as the kernel takes for an initrd; several after each other are one."""
    parts = []
    names: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in folders]
    names += [(name, _FILE_MODE, content) for name, content in files.items()]
    for number, (name, mode, content) in enumerate([*names, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
    return b"".join(parts)


def _keep(name: str, content: bytes) -> None:
    """A file that is there as a whole, or not."""
    with _written_first(CACHE / name) as path:
        path.write_bytes(content)


@contextlib.contextmanager
def _written_first(path: Path) -> Iterator[Path]:
    first = path.with_name(path.name + ".new")
    yield first
    first.replace(path)


def _run(*words: str, cwd: Path | None = None) -> str:
    return _run_bytes(*words, cwd=cwd).decode(errors="replace")


def _run_bytes(*words: str, cwd: Path | None = None) -> bytes:
    try:
        done = subprocess.run(
            words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=APT_SECONDS_MAX
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise NotHereError(str(error)) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotHereError(f"{words[0]} {words[1]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def main() -> None:
    """Make it, or say why not."""
    try:
        make()
    except (NotHereError, OSError) as error:
        print(f"tiny guest: left out, tests with a real guest are not run: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
