"""What an S3 client's exception means: the one place where it becomes one of our errors.

Where there was an answer, both clients' exceptions are first brought to one form (`Answer`). Of what
a client says only known words are repeated, so that no secret can stand in a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

import botocore.exceptions as boto
from obstore.exceptions import BaseError as ObstoreError

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    NoSuchBucket,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreRefused,
    StoreThrottled,
    StoreUnavailable,
    UsageError,
)

Verb = Literal["read", "look at", "create", "replace", "delete", "list"]

RETRY_AFTER_SECONDS_MAX = 3600.0

LIBRARY_ERRORS: Final = (boto.ClientError, boto.BotoCoreError, ObstoreError, FileNotFoundError)
"""All that boto3 and obstore raise by themselves (obstore says FileNotFoundError for 404)."""

_THROTTLED = {"SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException",
              "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded"}  # fmt: skip
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity", "NoSpaceLeft",
         "XMinioAdminBucketQuotaExceeded", "EntityTooManyObjects"}  # fmt: skip
_CONTENTION = {"ConditionalRequestConflict", "OperationAborted"}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect",
                 "IllegalLocationConstraintException"}  # fmt: skip
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException"}
_BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity",
                    "AccessDenied", "AccountProblem", "InvalidClientTokenId"}  # fmt: skip

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_UNTRUSTED = re.compile(r"certificate|CERTIFICATE|UnknownIssuer|NotValidForName|SSL:")
_TIMED_OUT = re.compile(r"^(Read|Connect)TimeoutError|timed out|kind: Timeout")
_NO_CREDENTIALS = re.compile(r"[Cc]redential|TokenRetrieval|UnauthorizedSSOToken")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: its HTTP status, and the S3 error code where there was one."""

    status: int
    code: str
    retry_after_seconds: float | None = None


def typed_error(error: Exception, what: str, verb: Verb) -> CdpError:
    """The error that an exception of boto3 or obstore stands for.

    Args:
        error: one of LIBRARY_ERRORS.
        what: the operation, for the message.
        verb: what was tried: an absent object means something else to `replace`.
    """
    if isinstance(error, boto.ClientError):
        return _of_answer(_client_error(error), what, verb)
    text = f"{type(error).__name__} {error}"
    if isinstance(error, ObstoreError | FileNotFoundError) and (status := _STATUS.search(text)):
        code = _CODE.search(text)
        return _of_answer(Answer(int(status[1]), code[1] if code else ""), what, verb)
    if "redirect" in text:
        return _of_answer(Answer(301, "PermanentRedirect"), what, verb)
    if "non-partial response" in text:
        return StoreRefused(what, "it answered a ranged read with something else than the range")
    if "ETag Header missing" in text:
        return StoreRefused(what, "it gives no ETag")
    return _of_no_answer(error, text, what)


def is_past_the_end(error: Exception) -> bool:
    """Whether a ranged read began at or after the object's end (416)."""
    if isinstance(error, boto.ClientError):
        return _client_error(error).status == 416
    status = _STATUS.search(str(error))
    return status is not None and status[1] == "416"


def is_refused_by_policy(error: Exception) -> bool:
    """Whether the credentials are good, but do not reach this object (403), as far as the answer tells."""
    if isinstance(error, boto.ClientError):
        answer = _client_error(error)
    else:
        text = f"{type(error).__name__} {error}"
        status, code = _STATUS.search(text), _CODE.search(text)
        answer = Answer(int(status[1]) if status else 0, code[1] if code else "")
    return answer.status == 403 and answer.code in ("", "AccessDenied", "Forbidden")


def _client_error(error: boto.ClientError) -> Answer:
    said = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    after = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    seconds = min(float(after), RETRY_AFTER_SECONDS_MAX) if after.isascii() and after.isdigit() else None
    code = str(said.get("Code", ""))
    status = int(meta.get("HTTPStatusCode", 0)) or (int(code) if code.isdigit() else 0)
    return Answer(status, "" if code.isdigit() else code[:64], seconds)


def _of_answer(answer: Answer, what: str, verb: Verb) -> CdpError:
    """Codes before statuses: Ceph, for one, says QuotaExceeded with 403."""
    status, code = answer.status, answer.code
    why = f"the store answered {status}" + (f" {code}" if code else "")
    if code == "NoSuchBucket":
        return NoSuchBucket(what, "there is no such bucket")
    if status == 507 or code in _FULL:
        return StoreFull(what, why)
    if status in (429, 503) or code in _THROTTLED:
        throttled = StoreThrottled(what, why)
        throttled.retry_after_seconds = answer.retry_after_seconds
        return throttled
    if status == 409 or code in _CONTENTION:
        return Contention(what, why)
    if status == 412 or (status == 404 and verb == "replace"):
        return PreconditionFailed(what, _UNMET.get(verb, why))
    if status == 404:
        return NotFound(what, "there is no such object")
    if status in (301, 307, 308) or code in _WRONG_REGION:
        hint = "name the bucket's own region in the address: ?region=NAME"
        return UsageError(what, f"the bucket is in another region ({why})", hint)
    if status in (401, 403) or code in _BAD_CREDENTIALS | _EXPIRED or code == "RequestTimeTooSkewed":
        return _denied(code, what, why)
    if status >= 500 and status != 501:
        return StoreUnavailable(what, why)
    return StoreRefused(
        what, why, "check that the endpoint is an S3 store and that the address names its bucket"
    )


_UNMET = {"create": "an object has this key already", "replace": "it is another version, or gone"}


def _denied(code: str, what: str, why: str) -> AccessDenied:
    if code == "RequestTimeTooSkewed":
        hint = "set this machine's clock (timedatectl, chronyc)"
        return AccessDenied(what, "this machine's clock and the store's differ by more than 15 minutes", hint)
    if code in _EXPIRED:
        return AccessDenied(what, f"the credentials have expired ({why})", "renew them")
    return AccessDenied(what, why)


def _of_no_answer(error: Exception, text: str, what: str) -> CdpError:
    if isinstance(error, boto.ProfileNotFound):
        return AccessDenied(
            what, "there is no profile of this name", "see ~/.aws/config and ~/.aws/credentials"
        )
    if _NO_CREDENTIALS.search(text.partition("\n")[0]):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in the address"
        return AccessDenied(what, "no usable credentials were found", hint)
    if isinstance(error, boto.SSLError) or _UNTRUSTED.search(text):
        hint = "name the authority that signed it in the address: ?ca=/path/to/ca.pem"
        return StoreUnavailable(what, "the certificate of the store is not trusted", hint)
    if _TIMED_OUT.search(text):
        return StoreUnavailable(what, "the store did not answer in time")
    if isinstance(error, boto.ParamValidationError):
        return UsageError(what, "the request cannot be made from these settings")
    return StoreUnavailable(what, "the connection failed or broke off")
