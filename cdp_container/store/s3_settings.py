"""What must be known to speak to one place in an S3 store. Pure values, no client and no secret.

Secrets do not belong here: credentials come from boto3's usual chain, a named profile or a named file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import urlencode, urlsplit

from cdp_container.errors import UsageError
from cdp_container.store.keys import is_key

Addressing = Literal["path", "virtual"]
TagSpelling = Literal["as-given", "unquoted"]
"""How If-Match wants an ETag. The standard says as given, in quotes; Ceph 16 then never matches."""

DataClientName = Literal["obstore", "boto3"]

Versions = Literal["newest", "oldest"]
"""Which version of a key is the object. In a bucket without versions there is but one."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_PROFILE = re.compile(r"[^\s/&?#]{1,128}")


@runtime_checkable
class SpellsTags(Protocol):
    """A store whose server may want tags in another spelling than it gives them."""

    def spell_tags(self, spelling: TagSpelling) -> None:
        """Use this spelling from now on."""
        ...


@runtime_checkable
class SignsRequests(Protocol):
    """A store that is asked with credentials."""

    def signing_keys(self) -> tuple[str, str, str | None]:
        """Access key, secret key and session token, as they are now. Raises AccessDenied."""
        ...


@dataclass(frozen=True, slots=True)
class S3Settings:
    """One place in an S3 store.

    Attributes:
        bucket: its name.
        prefix: what all keys begin with, without "/" at either end; "" for the whole bucket.
        endpoint: "https://host[:port]"; None for AWS (or for what the profile says).
        region: None for the profile's, or us-east-1.
        addressing: bucket in the path or in the host name; None for "path" where an endpoint is given.
        ca_file: PEM file of the authorities that sign the endpoint's certificate, beside the system's.
        profile: name of a profile in the AWS configuration files.
        tag_spelling: as the probe found it.
        data_client: what moves the bytes of objects.
        credentials_file: a file of credentials in the form of AWS, used and nothing else: its section that is
            named by the profile, or `default`.
        versions: "oldest" for the data place of a container in a bucket that keeps versions.
        data: the address of the container's data place, in its shortest form; None where there is none.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    addressing: Addressing | None = None
    ca_file: str | None = None
    profile: str | None = None
    tag_spelling: TagSpelling = "as-given"
    data_client: DataClientName = "obstore"
    credentials_file: str | None = None
    versions: Versions = "newest"
    data: str | None = None

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("bucket", self.bucket, _BUCKET.fullmatch(self.bucket)),
            ("prefix", self.prefix, not self.prefix or is_key(self.prefix)),
            ("endpoint", self.endpoint, self.endpoint is None or _is_endpoint(self.endpoint)),
            ("region", self.region, self.region is None or _REGION.fullmatch(self.region)),
            ("addressing", self.addressing, self.addressing in (None, "path", "virtual")),
            ("ca", self.ca_file, self.ca_file is None or self.ca_file.startswith("/")),
            ("profile", self.profile, self.profile is None or _PROFILE.fullmatch(self.profile)),
            ("credentials", "what is given", self._names_a_file),
            ("etag", self.tag_spelling, self.tag_spelling in ("as-given", "unquoted")),
            ("client", self.data_client, self.data_client in ("obstore", "boto3")),
            ("versions", self.versions, self.versions in ("newest", "oldest")),
            ("data", self.data, self.data is None or self.data.startswith("s3://")),
        ):
            if not fits:
                raise UsageError(
                    f"the store's {name}", f"{str(value)[:80]!r} is not one", f"{name} is {_MEANING[name]}"
                )

    @property
    def _names_a_file(self) -> bool:
        return self.credentials_file is None or self.credentials_file.startswith("/")

    @property
    def credentials_section(self) -> str:
        """Of the credentials file."""
        return self.profile or "default"

    @property
    def sends_checksums(self) -> bool:
        """Whether PUTs carry a checksum: AWS takes none without into a bucket that locks new objects."""
        return self.versions == "oldest"

    @property
    def in_path(self) -> bool:
        """Whether the bucket's name stands in the path (not in the host's name)."""
        return self.addressing == "path" or (self.addressing is None and self.endpoint is not None)

    def full_key(self, key: str) -> str:
        """The key in the bucket, of a key (or a key's beginning) relative to the place."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def address(self) -> str:
        """The address that gives these settings again."""
        options = {
            "endpoint": self.endpoint,
            "region": self.region,
            "addressing": self.addressing,
            "ca": self.ca_file,
            "profile": self.profile,
            "credentials": self.credentials_file,
            "etag": None if self.tag_spelling == "as-given" else self.tag_spelling,
            "client": None if self.data_client == "obstore" else self.data_client,
            "versions": None if self.versions == "newest" else self.versions,
            "data": self.data,
        }
        query = urlencode({name: value for name, value in options.items() if value is not None}, safe=":/?=")
        place = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return f"{place}?{query}" if query else place


_MEANING = {
    "bucket": "2 to 255 letters, digits, '.', '_' and '-'",
    "prefix": "parts of letters, digits, '.', '_' and '-', joined by '/'",
    "endpoint": "http://host[:port] or https://host[:port], without a path and without credentials",
    "region": "a name like eu-central-1",
    "addressing": "path or virtual",
    "ca": "the absolute path of a PEM file",
    "profile": "a name in the AWS configuration files",
    "credentials": "the absolute path of a file; credentials themselves never stand in an address",
    "etag": "as-given or unquoted",
    "client": "obstore or boto3",
    "versions": "newest or oldest",
    "data": "the address of another place in an S3 store: s3://bucket/prefix",
}


def _is_endpoint(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port_fits
