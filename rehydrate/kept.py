"""How long collection keeps the points of a container, as far as a reader can tell.

Ages are told by the points' own time and by this machine's clock: about right, and nothing is decided by it.
What the rules are does not belong here (cdp_container.domain.retention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cdp_container.domain.contents import Contents
from cdp_container.domain.history import History
from cdp_container.domain.image import Cut
from cdp_container.domain.retention import Circumstances, CutMarker, Kept, PastCut, kept_cuts
from cdp_container.domain.retention_policy import KEEP_ALL, Retention, parse_retention
from cdp_container.format.holds import Hold, parse_holds
from cdp_container.format.keys import HOLDS_KEY, config_key
from cdp_container.format.place import Place
from cdp_container.store.api import Store


def policy_of(history: History) -> Retention:
    """The policy in force. Raises DamagedObject, NewerFormat where it cannot be understood."""
    if history.config is None:
        return KEEP_ALL
    return parse_retention(history.config.retention, config_key(history.owner.config))


def holds_of(store: Store, domain: bytes) -> Mapping[str, Hold]:
    """The roster of holds. Raises NotFound, DamagedObject and their kin where it cannot be read."""
    return parse_holds(store.get(HOLDS_KEY).data, HOLDS_KEY, domain).holds


def kept_of(
    history: History,
    contents: Contents,
    cuts: Sequence[Cut],
    holds: Iterable[Hold],
    policy: Retention,
    now_ns: int,
) -> dict[Place, Kept]:
    """The cuts that the next collection would keep, of all that are there, and why. `now_ns`: wall clock."""
    terms: dict[tuple[int, int], list[CutMarker]] = {}
    for marker in contents.markers:
        terms.setdefault((marker.place.epoch, marker.place.cut), []).append(marker.term)
    past = [
        PastCut(
            place=cut.place,
            cut_time_ns=cut.time_ns,
            stored_ns=cut.time_ns,
            not_whole=cut.not_whole,
            markers=tuple(terms.get((cut.place.epoch, cut.place.cut), ())),
        )
        for cut in cuts
    ]
    at = Circumstances(
        now_ns=now_ns,
        protected=history.owner.protected,
        held=[hold.cut for hold in holds if hold.cut is not None],
        sources=[] if history.config is None else [source.space for source in history.config.sources],
        epochs={epoch: (span.record.base, span.end) for epoch, span in history.spans.items()},
    )
    return kept_cuts(past, policy, at)
