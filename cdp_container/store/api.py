"""The Store protocol: keys and bytes, and the two conditional writes that everything rests on.

A store is one place in an object store (bucket + prefix, or a directory). It knows nothing of
segments, domains or retries; wrappers and the protocol on top do. Every method may be called
from several threads at once.

What each method may raise, beside what its docstring names: `StoreUnavailable` (no answer, or
5xx: whether a write took place is *unknown*), `StoreThrottled` (asked to slow down),
`AccessDenied`, `NoSuchBucket`, `StoreFull`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

KEY_BYTES_MAX = 512
"""The longest key, relative to the place; S3 allows 1,024 bytes with the prefix."""

OBJECT_BYTES_MAX = 256 * 1024 * 1024
"""The largest object that is ever read whole; ours are far smaller."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the store says of one object.

    Attributes:
        key: relative to the place.
        size: bytes.
        tag: opaque version tag (an ETag as the server spelled it); only for `put_if` and `unless_tag`.
        modified_ns: the store's Last-Modified in nanoseconds since 1970 (S3 gives whole seconds).
    """

    key: str
    size: int
    tag: str
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Blob:
    """An object read whole, with what the store says of it."""

    found: Found
    data: bytes


class Store(Protocol):
    """One place for objects. See the module's docstring for common errors."""

    @property
    def address(self) -> str:
        """The address as an administrator writes it, without secrets (for messages)."""
        ...

    def get(self, key: str) -> Blob:
        """Read a whole object, never from a cache. Raises NotFound; LimitExceeded past OBJECT_BYTES_MAX."""
        ...

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """Read an object unless its tag is still `tag` (then None), never from a cache. Raises NotFound."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start`; fewer only where the object ends. Raises NotFound.

        A range that begins at or past the end gives b"".
        """
        ...

    def head(self, key: str) -> Found:
        """What the store says of the object, without its bytes. Raises NotFound."""
        ...

    def put_new(self, key: str, data: bytes) -> str:
        """Create an object that must not exist, in one request, durably; gives its tag.

        Raises PreconditionFailed where the key exists (perhaps by our own lost attempt), Contention (409).
        Never retried inside.
        """
        ...

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """Replace the object only if its tag is still `tag` (compare-and-swap), durably; gives the new tag.

        Raises PreconditionFailed (another version, or no object), Contention (409). Never retried inside.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error. Never conditional: no rule rests on that."""
        ...

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """Every object whose key begins with `prefix` and sorts after `start_after`, in bytewise order."""
        ...

    def close(self) -> None:
        """Give back connections and descriptors."""
        ...
