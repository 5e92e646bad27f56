"""`domain/requests/<id>`: a site asks for a domain, and its owner answers (docs/container-format.md).

Values, a strict parser, one encoding. A request is a message: who owns a domain, and who may give it to whom,
does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdp_container.errors import LimitExceeded
from cdp_container.format.domain import frame_members, open_members
from cdp_container.format.jsontext import dump_object
from cdp_container.format.keys import EPOCH_MAX, is_request_id
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import REQUEST_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Answer:
    """What the owner said, once and for ever; `site` and `operator` are who said it."""

    granted: bool
    site: str
    operator: str
    reason: str
    answered_ns: int


@dataclass(frozen=True, slots=True)
class OwnershipRequest:
    """A site asks for a domain.

    Attributes:
        domain: 16 bytes.
        request_id: 16 hex digits, as in the key.
        site: who asks.
        operator, reason: in words, perhaps empty.
        asked_ns: by the clock of who asks.
        owner_site, owner_epoch: whom it was asked of.
        answer: None until there is one.
    """

    domain: bytes
    request_id: str
    site: str
    operator: str
    reason: str
    asked_ns: int
    owner_site: str
    owner_epoch: int
    answer: Answer | None = None


def build_request(request: OwnershipRequest) -> bytes:
    """The bytes of a request. Raises LimitExceeded where its words are too many."""
    answer = request.answer
    members = {
        **frame_members("cdp-request", request.domain),
        "id": request.request_id,
        "site": request.site,
        "operator": request.operator,
        "reason": request.reason,
        "asked_ns": request.asked_ns,
        "owner_site": request.owner_site,
        "owner_epoch": request.owner_epoch,
        "answer": None
        if answer is None
        else {
            "granted": answer.granted,
            "site": answer.site,
            "operator": answer.operator,
            "reason": answer.reason,
            "answered_ns": answer.answered_ns,
        },
    }
    data = dump_object(members)
    if len(data) > REQUEST_BYTES_MAX:
        why = f"it would have {len(data)} bytes, and {REQUEST_BYTES_MAX} are the most (REQUEST_BYTES_MAX)"
        raise LimitExceeded(f"write the request {request.request_id}", why, "give a shorter reason")
    assert parse_request(data, "the request that is being built", request.domain) == request
    return data


def parse_request(data: bytes, key: str, domain: bytes | None) -> OwnershipRequest:
    """The request in `data`; errors as in `parse_owner`. The caller checks that its id is its key's."""
    members = open_members(data, key, "cdp-request", domain, REQUEST_BYTES_MAX)
    request_id = members.text("id")
    if not is_request_id(request_id):
        raise members.fault("id", "is not 16 hex digits")
    answer = members.object_or_none("answer")
    return OwnershipRequest(
        domain=members.bytes("domain", ID_BYTES),
        request_id=request_id,
        site=members.text("site"),
        operator=members.text("operator"),
        reason=members.text("reason"),
        asked_ns=members.time_ns("asked_ns"),
        owner_site=members.text("owner_site"),
        owner_epoch=members.number("owner_epoch", EPOCH_MAX),
        answer=None
        if answer is None
        else Answer(
            granted=answer.flag("granted"),
            site=answer.text("site"),
            operator=answer.text("operator"),
            reason=answer.text("reason"),
            answered_ns=answer.time_ns("answered_ns"),
        ),
    )
