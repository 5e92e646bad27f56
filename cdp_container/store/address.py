"""Addresses of stores, as administrators write them, and the one function that opens one.

    /backup/vm17   dir:/backup/vm17   file:///backup/vm17
    s3://bucket/prefix?endpoint=https://host:port&region=eu-1&addressing=path&ca=/etc/ca.pem&profile=dr
    s3://bucket/prefix?endpoint=https://host&credentials=/etc/cdp/credentials
    s3://bucket/prefix?endpoint=https://host&data=s3://locked/prefix?versions=oldest

An address never holds a secret, so it may stand in configurations, messages and recovery kits.
Which domains lie below an address does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from cdp_container.clock import Clock
from cdp_container.errors import UsageError
from cdp_container.store.api import Store
from cdp_container.store.directory import DirectoryStore
from cdp_container.store.keys import is_key
from cdp_container.store.s3_settings import Addressing, DataClientName, S3Settings, TagSpelling, Versions

ADDRESS_LENGTH_MAX = 2048
_OPTIONS = (
    "endpoint", "region", "addressing", "ca", "profile", "credentials", "etag", "client", "versions", "data",
)  # fmt: skip
_OWN = ("bucket", "prefix", "versions", "data")
"""What a data place has of its own; all else is as in the place of `domain/`, unless it says otherwise."""
_SECRET_WORDS = (
    "secret",
    "access_key",
    "accesskey",
    "access-key",
    "password",
    "token",
    "key_id",
    "credential",
)
_FORMS = "write /path, dir:/path, file:///path or s3://bucket/prefix?endpoint=https://host"
_NO_SECRETS = (
    "use the environment (AWS_ACCESS_KEY_ID and so on), or name a profile: ?profile=NAME, or a file: "
    "?credentials=/PATH"
)


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """A directory as a place for objects; `path` is absolute."""

    path: Path

    def address(self) -> str:
        """The address that gives this place again."""
        return str(self.path)


Place = DirectoryPlace | S3Settings


def parse_address(text: str) -> Place:
    """Read an address. Raises UsageError, which never repeats a secret."""
    if not text or len(text) > ADDRESS_LENGTH_MAX or not text.isprintable():
        raise UsageError("read a store's address", "it is empty, too long or not printable", _FORMS)
    scheme = text.partition(":")[0].lower()
    if text.startswith("/"):
        return DirectoryPlace(_absolute(text))
    if scheme == "dir":
        return DirectoryPlace(_absolute(text[len("dir:") :]))
    if scheme == "file":
        return _parse_file(text)
    if scheme == "s3":
        return _parse_s3(text)
    if ":" not in text:
        raise UsageError("read a store's address", "it is a relative path", "write an absolute path")
    raise UsageError("read a store's address", "it is of no kind that this release knows", _FORMS)


def below(place: Place, prefix: str) -> Place:
    """The place whose keys are those of `place` that begin with `prefix` and "/"."""
    if not is_key(prefix):
        raise UsageError(
            "read a store's prefix", f"{prefix[:80]!r} is not one", "letters, digits, '.', '_', '-'"
        )
    if isinstance(place, DirectoryPlace):
        return DirectoryPlace(place.path / prefix)
    return replace(place, prefix=place.full_key(prefix))


def with_data(place: Place, data: str) -> S3Settings:
    """The place of a container whose data place is at that address. Raises UsageError."""
    inner = parse_address(data)
    if isinstance(place, DirectoryPlace) or isinstance(inner, DirectoryPlace) or inner.data is not None:
        why = "a data place, and the place that it belongs to, are each one place in an S3 store"
        raise UsageError("read the address of a data place", why, "s3://bucket/prefix?versions=oldest")
    if (inner.endpoint or place.endpoint, inner.bucket) == (place.endpoint, place.bucket) and (
        inner.prefix == place.prefix or inner.versions != "newest"
    ):
        why = "the data place is the place of domain/ again, or versioned and in the same bucket"
        raise UsageError("read the address of a data place", why, "take another bucket")
    defaults: dict[str, Any] = {
        field.name: field.default for field in fields(S3Settings) if field.name not in _OWN
    }
    same = {name: value for name, value in defaults.items() if getattr(inner, name) == getattr(place, name)}
    return replace(place, data=replace(inner, **same).address())


def data_place(place: S3Settings) -> S3Settings | None:
    """The data place of a container, with what it shares with the place of `domain/`."""
    if place.data is None:
        return None
    inner = parse_address(place.data)
    assert not isinstance(inner, DirectoryPlace), "S3Settings would refuse it"
    shared: dict[str, Any] = {
        field.name: getattr(place, field.name)
        for field in fields(S3Settings)
        if field.name not in _OWN and getattr(inner, field.name) == field.default
    }
    return replace(inner, **shared)


def open_store(address: str | Place, clock: Clock | None = None) -> Store:
    """Open the store at an address; no request is made, so a wrong name shows with the first one.

    Without retries and untested: see `cdp_container.store.retry` and `cdp_container.store.attest`.
    Raises UsageError, AccessDenied (no credentials, no such profile).
    """
    place = parse_address(address) if isinstance(address, str) else address
    if isinstance(place, DirectoryPlace):
        return DirectoryStore(place.path, clock)
    # Imported when needed: boto3 takes half a second, which commands on a directory need not pay.
    from cdp_container.store.s3 import S3Store
    from cdp_container.store.s3_oldest import OldestS3Store
    from cdp_container.store.split import SplitStore

    def opened(one: S3Settings) -> S3Store:
        return (OldestS3Store if one.versions == "oldest" else S3Store)(one, clock)

    data = data_place(place)
    return opened(place) if data is None else SplitStore(opened(place), opened(data))


def _absolute(path: str) -> Path:
    if not path:
        raise UsageError("read a store's address", "it names no directory", _FORMS)
    return Path(path).absolute()


def _parse_file(text: str) -> DirectoryPlace:
    parts = urlsplit(text)
    if (
        parts.netloc not in ("", "localhost")
        or not parts.path.startswith("/")
        or parts.query
        or parts.fragment
    ):
        raise UsageError(
            "read a store's address", "a file address names an absolute path and nothing else", _FORMS
        )
    return DirectoryPlace(Path(unquote(parts.path)))


def _parse_s3(text: str) -> S3Settings:
    parts = urlsplit(text)
    options = _read_options(parts.query)
    if "@" in parts.netloc or "@" in options.get("endpoint", ""):
        raise UsageError("read a store's address", "credentials must not stand in it", _NO_SECRETS)
    if parts.fragment:
        raise UsageError("read a store's address", "it has a part after '#'", _FORMS)
    settings = S3Settings(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=options.get("endpoint", "").rstrip("/") or None,
        region=options.get("region"),
        # S3Settings refuses any other word.
        addressing=cast(Addressing | None, options.get("addressing")),
        ca_file=options.get("ca"),
        profile=options.get("profile"),
        credentials_file=options.get("credentials"),
        tag_spelling=cast(TagSpelling, options.get("etag", "as-given")),
        data_client=cast(DataClientName, options.get("client", "obstore")),
        versions=cast(Versions, options.get("versions", "newest")),
    )
    if "data" not in options:
        return settings
    if settings.versions == "oldest":
        raise UsageError(
            "read a store's address", "the place of domain/ keeps no versions: versions=oldest is for data"
        )
    return with_data(settings, options["data"])


def _read_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS and any(word in name.lower() for word in _SECRET_WORDS):
            raise UsageError("read a store's address", "credentials must not stand in it", _NO_SECRETS)
        if name not in _OPTIONS or name in options or not value:
            raise UsageError(
                "read a store's address",
                f"the option {name[:40]!r} is unknown, empty or given twice",
                f"the options are {', '.join(_OPTIONS)}",
            )
        options[name] = value
    return options
