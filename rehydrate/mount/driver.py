"""Mounting, and taking the mount away again: the one place that knows libfuse.

libfuse's loop runs in a thread of its own, so that signals reach the program as always, and ending works in
one way whoever mounts. What the kernel is answered does not belong here (operations).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Self

from cdp_container.errors import CdpError, DeviceError, TargetNotEmpty, TargetUnsuitable
from rehydrate.localio import os_errors
from rehydrate.mount.operations import Operations

DEVICE: Final = Path("/dev/fuse")

KERNEL_SECONDS: Final = 86_400
"""How long the kernel may believe names and attributes before it asks again: a cut never changes."""

END_SECONDS: Final = 10.0
"""How long libfuse is waited for in the end; the mount is gone by then, or says so."""

IDLE_THREADS_MAX: Final = 10
"""Threads of libfuse that wait for something to do."""

_PACKAGES: Final = "install it (Debian, Ubuntu: `apt-get install fuse3`)"
_LIBRARY_VARIABLES: Final = ("FUSE_LIBRARY_PATH", "FUSE_LIBRARY_NAME")
_PLUS: Final = 2
"""FUSE_FILL_DIR_PLUS: the attributes of a name come with it."""


class Mount:
    """A directory in which something is shown, from the beginning of a block to its end.

    Args:
        operations: answer the kernel.
        directory: empty, ours.
        allow_other: whether other users may look too; the kernel then minds owners and modes.
    """

    def __init__(self, operations: Operations, directory: Path, allow_other: bool = False) -> None:
        self._operations = operations
        self._directory = directory
        self._allow_other = allow_other
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._ended = threading.Event()  # a thread that was joined may be taken for dead after a Ctrl-C
        self._session: int | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fuse", daemon=True)

    def __enter__(self) -> Self:
        """Raises TargetUnsuitable, TargetNotEmpty, DeviceError: it cannot be mounted there, or at all."""
        self._binding = _binding()
        check_directory(self._directory)
        with _same_directory():  # libfuse goes to the root
            self._thread.start()
            try:
                self._begun.wait()
            except BaseException:
                self._begun.wait(END_SECONDS)
                self.end()
                raise
        if self._session is None:
            self._ended.wait()
            what, why = f"mount {self._directory}", "libfuse refused, and said above why, if it did"
            hint = (
                "other users (--allow-other) need `user_allow_other` in /etc/fuse.conf, unless you are root"
            )
            raise DeviceError(what, why, hint) from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def wait(self, seconds: float) -> bool:
        """For so long, or until it is unmounted; gives whether it is. Raises DeviceError: libfuse failed."""
        is_ended = self._ended.wait(seconds)
        if is_ended and self._failure is not None:
            raise DeviceError(f"serve {self._directory}", str(self._failure)) from self._failure
        return is_ended

    def end(self) -> None:
        """Unmount, whoever uses it still: they get errors. Nothing where that was done.

        Raises DeviceError where it is still mounted after END_SECONDS.
        """
        with self._lock:
            if self._session is not None:
                self._binding._libfuse.fuse_exit(self._binding.ctypes.c_void_p(self._session))
        if not self._ended.is_set():
            # The loop looks whether it is to end once somebody asks for something.
            threading.Thread(target=_ask, args=(self._directory,), daemon=True).start()
            self._ended.wait(END_SECONDS)
        if not self._ended.is_set():
            why = f"libfuse did not end within {END_SECONDS:g} s"
            raise DeviceError(f"unmount {self._directory}", why, f"`fusermount3 -uz {self._directory}`")

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        """The loop of libfuse, to its end."""
        options: dict[str, Any] = {
            "foreground": True,
            "ro": True,
            "fsname": "rehydrate",
            "use_ino": True,
            "kernel_cache": True,
            "entry_timeout": KERNEL_SECONDS,
            "attr_timeout": KERNEL_SECONDS,
            "negative_timeout": KERNEL_SECONDS,
            "allow_other": self._allow_other,
            "default_permissions": self._allow_other,
        }
        if self._binding.fuse_version_major == 3:
            options["max_idle_threads"] = IDLE_THREADS_MAX  # its default is told as an error by 3.14
        try:
            _fuse_class(self._binding)(_Hooked(self), str(self._directory), **options)
        except BaseException as error:  # noqa: BLE001 (told by whoever waits for this thread)
            self._failure = error
        finally:
            self._ended.set()
            self._begun.set()

    def began(self) -> None:
        """Told by libfuse when it is mounted."""
        with self._lock:
            self._session = self._binding._libfuse.fuse_get_context().contents.fuse
        self._begun.set()

    def ended(self) -> None:
        """Told by libfuse just before it forgets everything."""
        with self._lock:
            self._session = None

    @property
    def operations(self) -> Operations:
        """Who answers."""
        return self._operations


class _Hooked:
    """Operations as libfuse finds them by their names, and what it says of itself."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever is called so)
        operations = self._mount.operations
        return None if name in operations.left_out else getattr(operations, name)

    def init(self, _: str) -> None:
        """It is mounted."""
        self._mount.began()

    def destroy(self, _: str) -> None:
        """It ends."""
        self._mount.ended()


def check_fuse() -> None:
    """Raises DeviceError: this machine cannot mount."""
    _binding()


def check_directory(directory: Path) -> None:
    """Raises TargetUnsuitable, TargetNotEmpty: nothing can be mounted there."""
    what = f"mount {directory}"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        raise TargetUnsuitable(what, "it does not exist", f"create it: `mkdir {directory}`") from None
    except NotADirectoryError:
        raise TargetUnsuitable(what, "it is no directory") from None
    except OSError as error:
        hint = (
            f"if the program of a mount there was killed: `fusermount3 -u {directory}`, or `umount` as root"
        )
        raise TargetUnsuitable(what, error.strerror or "it cannot be read", hint) from error
    if names:
        raise TargetNotEmpty(what, f"it holds {names[0]!r}", "choose an empty directory")


def _binding() -> ModuleType:
    """The binding, once it found a libfuse. Raises DeviceError where this machine has none, or no FUSE."""
    what = "mount with FUSE"
    if not DEVICE.exists():
        why = f"this kernel has no {DEVICE}"
        raise DeviceError(what, why, "`modprobe fuse`; a container of containers is given --device /dev/fuse")
    try:
        with _library_chosen():
            import mfusepy  # type: ignore[import-untyped]  # it looks for libfuse when it is imported
    except (OSError, AttributeError) as error:
        raise DeviceError(what, f"libfuse: {error}", _PACKAGES) from error
    binding: ModuleType = mfusepy
    return binding


@contextmanager
def _library_chosen() -> Iterator[None]:
    """Version 3 where it is there: it takes attributes with names. Else the binding finds 2 by itself."""
    if any(os.environ.get(name) for name in _LIBRARY_VARIABLES) or find_library("fuse3") is None:
        yield
        return
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    try:
        yield
    finally:
        del os.environ["FUSE_LIBRARY_NAME"]


def _fuse_class(binding: ModuleType) -> Any:  # noqa: ANN401 (a class of an untyped module)
    """The binding's class, which gives attributes with names where libfuse can take them."""

    class Fuse(binding.FUSE):  # type: ignore[misc, name-defined]
        """As the binding has it, but for directories."""

        def readdir_fuse_3(
            self,
            path: bytes,
            buffer: int,
            filler: Callable[..., int],
            offset: int,
            info: object,
            flags: int,
        ) -> int:
            """Names of a directory, each with its attributes: nobody has to ask for them one by one.

            As many as the kernel has room for; it goes on behind the last one that it took.
            """
            status = binding.c_stat()
            text = path.decode(self.encoding, self.errors)
            for name, found, behind in self.operations.entries(text, offset):
                if found is not None:
                    binding.set_st_attrs(status, found, use_ns=True)
                if filler(
                    buffer,
                    name.encode(self.encoding, self.errors),
                    found and status,
                    behind,
                    _PLUS if found else 0,
                ):
                    break
            return 0

        def lseek_fuse_3(self, path: bytes, offset: int, whence: int, info: Any) -> int:  # noqa: ANN401 (as above)
            """Where data or a hole begins; libfuse 2 knows no such question."""
            text = path.decode(self.encoding, self.errors)
            found: int = self.operations.lseek(text, offset, whence, info.contents.fh)
            return found

    return Fuse


@contextmanager
def _same_directory() -> Iterator[None]:
    """Where the program stands when the block ends is where it stood."""
    with os_errors("note the working directory"):
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
        with suppress(PermissionError):  # then no path from there led anywhere before
            os.fchdir(before)
    finally:
        os.close(before)


def _ask(directory: Path) -> None:
    """Ask for anything; what comes does not matter."""
    try:
        os.statvfs(directory)
    except (OSError, CdpError):
        return
