"""The two clients that speak S3, built from one set of settings: boto3's core for control, obstore for data.

Both make every request exactly once: a conditional write that is repeated behind our back would
answer 412 to its own success. What their answers mean does not belong here (`s3_errors`).
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import botocore.session
import obstore
from botocore.config import Config
from botocore.credentials import SharedCredentialProvider
from botocore.exceptions import BotoCoreError, NoCredentialsError
from obstore.store import S3Store as ObstoreS3

from cdp_container.clock import Clock
from cdp_container.errors import AccessDenied, LimitExceeded, StoreRefused, UsageError
from cdp_container.store.api import OBJECT_BYTES_MAX
from cdp_container.store.put_pace import PUT_SECONDS
from cdp_container.store.s3_errors import typed_error
from cdp_container.store.s3_models import Models, moment
from cdp_container.store.s3_settings import S3Settings

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef
    from obstore import GetOptions
    from obstore.store import ClientConfig, S3Config, S3Credential

CONNECT_SECONDS = 5
READ_SECONDS = 30
"""How long an answer may pause. A renewal that waits longer has lost its lease anyway."""

TRANSFER_SECONDS = 600
"""The longest single GET: 16 MiB at 0.25 Mbit/s."""

CONNECTIONS_MAX = 64
"""boto3's pool; with more threads than this it only gets slower."""

CREDENTIALS_SECONDS = 900
"""How long obstore keeps credentials before it asks boto3's chain again (it renews 5 min early)."""

CHECKSUM: Final = "SHA256"
"""Of PUTs into a bucket that may lock. All servers that we tried take it; obstore knows few others."""

CA_BYTES_MAX = 4 * 1024 * 1024
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole object as a data client read it; `tag` as the server spelled it."""

    data: bytes
    tag: str
    modified_ns: int


class DataClient(Protocol):
    """What moves bytes. Keys are the bucket's; errors are the library's own (s3_errors.LIBRARY_ERRORS)."""

    def put_new(self, key: str, data: bytes, limit_seconds: int) -> str:
        """One create-only PUT within one of `Waits.put_seconds`; gives the ETag."""
        ...

    def get(self, key: str, version: str = "") -> Fetched:
        """One GET, of `version` if named. Raises LimitExceeded before it reads more than OBJECT_BYTES_MAX."""
        ...

    def get_range(self, key: str, start: int, length: int, version: str = "") -> bytes:
        """One ranged GET of at least one byte; the server's 416 is an error here."""
        ...


@dataclass(frozen=True, slots=True)
class Waits:
    """How long clients wait: for a connection, for an answer that pauses, and for a PUT, by its pace."""

    connect_seconds: int = CONNECT_SECONDS
    read_seconds: int = READ_SECONDS
    put_seconds: tuple[int, ...] = PUT_SECONDS


def short_waits(limit_seconds: int) -> Waits:
    """For small objects on which others wait: what hangs is given up soon, together with its connection.

    Clients opened so have connections of their own. So what is asked next, by the one who asked, finds none
    in their pool that went dead together with the first.
    """
    limit = min(limit_seconds, READ_SECONDS)
    return Waits(min(CONNECT_SECONDS, limit), limit, (limit,))


def open_clients(
    settings: S3Settings, clock: Clock, waits: Waits | None = None
) -> tuple[S3Client, DataClient]:
    """Both clients of a place. Raises AccessDenied (no such profile, no credentials), UsageError (the CA)."""
    waits = waits or Waits()
    try:
        session = _session(settings)
        ca_file: str | None = settings.ca_file or session.get_config_variable("ca_bundle")
        ca = None if ca_file is None else _read_ca(ca_file)
        control = _open_control(settings, session, ca_file, waits.connect_seconds, waits.read_seconds)
        if settings.data_client == "boto3":
            putting = {
                limit: _open_control(settings, session, ca_file, waits.connect_seconds, limit)
                for limit in waits.put_seconds
            }
            return control, BotoData(control, putting, settings.bucket, settings.sends_checksums)
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
    except BotoCoreError as error:
        raise typed_error(error, f"open the store {settings.address()}", "read") from error
    renewing = _Renewing(credentials, clock)

    def opened(seconds: int, with_checksums: bool) -> ObstoreS3:
        return _open_obstore(settings, control, renewing, ca, waits.connect_seconds, seconds, with_checksums)

    return control, ObstoreData(opened, waits.read_seconds, settings.sends_checksums)


def signing_keys(settings: S3Settings) -> tuple[str, str, str | None]:
    """Access key, secret key and session token that a client opened now would use. Raises AccessDenied."""
    try:
        credentials = _session(settings).get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise typed_error(error, f"open the store {settings.address()}", "read") from error
    assert frozen.access_key is not None
    assert frozen.secret_key is not None
    return frozen.access_key, frozen.secret_key, frozen.token


def _session(settings: S3Settings) -> botocore.session.Session:
    """Where configuration and credentials come from. Raises BotoCoreError; AccessDenied for a named file."""
    session = botocore.session.Session(profile=settings.profile)
    session.register_component("data_loader", Models())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
    path, section = settings.credentials_file, settings.credentials_section
    if path is not None:
        # A profile may be in that file alone; and the environment's credentials must not win over it.
        session.set_config_variable("credentials_file", path)
        found = SharedCredentialProvider(path, section).load()
        if found is None:
            why = f"{path} cannot be read, or has no section [{section}] with credentials"
            raise AccessDenied(f"open the store {settings.address()}", why, "mend that file")
        session.set_credentials(found.access_key, found.secret_key, found.token)
    return session


def _open_control(
    settings: S3Settings,
    session: botocore.session.Session,
    ca_file: str | None,
    connect_seconds: int,
    read_seconds: int,
) -> S3Client:
    """boto3's client: no retries, no cached answers, no checksums that a server might not know.

    Made by botocore: boto3 itself would add uploads and objects with methods, which nobody here uses.
    """
    made = session.create_client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region or session.get_config_variable("region") or DEFAULT_REGION,
        verify=ca_file,
        config=Config(
            # total_max_attempts counts the first attempt too; max_attempts would count only repetitions.
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=connect_seconds,
            read_timeout=read_seconds,
            max_pool_connections=CONNECTIONS_MAX,
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.in_path else "virtual"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    client = cast("S3Client", made)
    for operation in ("GetObject", "HeadObject", "ListObjectsV2"):
        client.meta.events.register(f"before-call.s3.{operation}", _ask_no_cache)
    client.meta.events.register("before-call.s3", _stay_in_region)
    return client


class BotoData:
    """See `DataClient`; by boto3."""

    def __init__(
        self, client: S3Client, putting: dict[int, S3Client], bucket: str, sends_checksums: bool
    ) -> None:
        self._client = client
        self._putting = putting
        self._bucket = bucket
        self._sends_checksums = sends_checksums

    def put_new(self, key: str, data: bytes, limit_seconds: int) -> str:
        """See `DataClient.put_new`."""
        client = self._putting[limit_seconds]
        # Given with its value it is a header: left to boto3 it would be a trailer, which fewer servers know.
        checksum: dict[str, Any] = (
            {"ChecksumAlgorithm": CHECKSUM, "ChecksumSHA256": b64encode(sha256(data).digest()).decode()}
            if self._sends_checksums
            else {}
        )
        answer = client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*", **checksum)
        return answer.get("ETag", "")

    def get(self, key: str, version: str = "") -> Fetched:
        """See `DataClient.get`."""
        return fetched(key, self._client.get_object(Bucket=self._bucket, Key=key, **_named(version)))

    def get_range(self, key: str, start: int, length: int, version: str = "") -> bytes:
        """See `DataClient.get_range`."""
        wanted = f"bytes={start}-{start + length - 1}"
        answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=wanted, **_named(version))
        if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            answer["Body"].close()
            raise StoreRefused(
                f"read a range of {key}", "the store answered with something else than the range"
            )
        with closing(answer["Body"]) as body:
            return body.read()


def _named(version: str) -> dict[str, Any]:
    return {"VersionId": version} if version else {}


class ObstoreData:
    """See `DataClient`; by obstore, which releases the interpreter's lock and takes a fraction of the CPU."""

    def __init__(
        self, opened: Callable[[int, bool], ObstoreS3], read_seconds: int, sends_checksums: bool
    ) -> None:
        self._opened = opened
        self._opening = threading.Lock()
        self._stores: dict[tuple[int, bool], ObstoreS3] = {}
        self._sends_checksums = sends_checksums
        self._store = self._of(read_seconds, False)

    def _of(self, seconds: int, with_checksums: bool) -> ObstoreS3:
        """The store with this limit. To open one takes milliseconds; few PUTs need the longer limits."""
        wanted = seconds, with_checksums
        with self._opening:
            if wanted not in self._stores:
                self._stores[wanted] = self._opened(*wanted)
            return self._stores[wanted]

    def put_new(self, key: str, data: bytes, limit_seconds: int) -> str:
        """See `DataClient.put_new`."""
        # Left alone, obstore makes all over 5 MiB multipart uploads, which cannot be create-only.
        store = self._of(limit_seconds, self._sends_checksums)
        answer = obstore.put(store, key, data, mode="create", use_multipart=False)
        return answer["e_tag"] or ""

    def get(self, key: str, version: str = "") -> Fetched:
        """See `DataClient.get`."""
        answer = obstore.get(self._store, key, options={"version": version} if version else None)
        meta = answer.meta
        _check_size(key, meta["size"])
        return Fetched(
            data=answer.bytes().to_bytes(),
            tag=meta["e_tag"] or "",
            modified_ns=nanoseconds(meta["last_modified"]),
        )

    def get_range(self, key: str, start: int, length: int, version: str = "") -> bytes:
        """See `DataClient.get_range`."""
        if not version:
            return obstore.get_range(self._store, key, start=start, length=length).to_bytes()
        options: GetOptions = {"version": version, "range": (start, start + length)}
        return obstore.get(self._store, key, options=options).bytes().to_bytes()


def fetched(key: str, answer: GetObjectOutputTypeDef) -> Fetched:
    """Read the body of boto3's answer to a GET. Raises LimitExceeded."""
    # closing: `with` on the body itself would give the raw stream, which raises what nobody has typed.
    with closing(answer["Body"]) as body:
        _check_size(key, answer["ContentLength"])
        modified_ns = nanoseconds(answer["LastModified"])
        return Fetched(data=body.read(), tag=answer.get("ETag", ""), modified_ns=modified_ns)


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware datetime; whole seconds, since only LIST ever says more."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * 1_000_000_000


class _Renewing:
    """Gives obstore what boto3's chain has at the moment; the chain renews what expires."""

    def __init__(self, credentials: Credentials, clock: Clock) -> None:
        self._credentials = credentials
        self._clock = clock

    def __call__(self) -> S3Credential:
        frozen = self._credentials.get_frozen_credentials()
        if frozen.access_key is None or frozen.secret_key is None:
            raise NoCredentialsError
        now = datetime.fromtimestamp(self._clock.wall_ns() // 1_000_000_000, tz=UTC)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": now + timedelta(seconds=CREDENTIALS_SECONDS),
        }


def _open_obstore(
    settings: S3Settings,
    control: S3Client,
    credentials: _Renewing,
    ca: bytes | None,
    connect_seconds: int,
    read_seconds: int,
    with_checksums: bool,
) -> ObstoreS3:
    """The same place again: what boto3 resolved is pinned, so that both clients meet one server.

    Who puts needs a longer limit: obstore's read timeout begins with the request and not with the answer,
    and so counts the upload too. Checksums cost nothing more: the signature takes the same digest.
    """
    endpoint = control.meta.endpoint_url
    if not settings.in_path:
        scheme, _, host = endpoint.partition("://")
        endpoint = f"{scheme}://{settings.bucket}.{host}"
    headers = {"cache-control": "no-cache"}
    checksums: S3Config = {}
    if with_checksums:
        # obstore names the algorithm by the header of its value alone; some servers want to be told it, too.
        headers["x-amz-sdk-checksum-algorithm"] = CHECKSUM
        checksums["checksum_algorithm"] = CHECKSUM
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=connect_seconds),
        "read_timeout": timedelta(seconds=read_seconds),
        "timeout": timedelta(seconds=TRANSFER_SECONDS + CONNECT_SECONDS),
        "default_headers": headers,
    }
    if ca is not None:
        options["root_certificate"] = ca
    return ObstoreS3(
        settings.bucket,
        config={
            "endpoint": endpoint,
            # The environment's AWS_ENDPOINT_URL_S3 would win over `endpoint`.
            "aws_endpoint_url_s3": endpoint,
            "region": control.meta.region_name,
            "virtual_hosted_style_request": not settings.in_path,
            "skip_signature": False,
            "conditional_put": "etag",
            **checksums,
        },
        client_options=options,
        retry_config={"max_retries": 0},
        credential_provider=credentials,
    )


def _ask_no_cache(params: dict[str, Any], **_: object) -> None:
    params["headers"]["Cache-Control"] = "no-cache"


def _stay_in_region(context: dict[str, Any], **_: object) -> None:
    """Else boto3 asks for the bucket's region and repeats the request there, past `retries`."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _check_size(key: str, size: int) -> None:
    if size > OBJECT_BYTES_MAX:
        raise LimitExceeded(
            f"read {key}", f"it has {size} bytes; no object of this system has over {OBJECT_BYTES_MAX}"
        )


def _read_ca(path: str) -> bytes:
    """The PEM file's bytes; read here so that a wrong file is named, not met as a failed handshake."""
    try:
        with open(path, "rb") as file:
            pem = file.read(CA_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"read the store's CA file {path}", error.strerror or "it cannot be read") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise UsageError(f"read the store's CA file {path}", "it holds no certificate in PEM form")
    return pem
