"""Times of the calendar, written like in a crontab: which of several came last, and when the next one comes.

Used for what people plan by the clock on the wall. What must not depend on that clock (leases, retries, cuts)
does not belong here. The time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOOK_BACK: Final = timedelta(days=400)
"""A time that did not come for so long does not count: the rarest that is planned comes once a year."""
LAST_YEARS: Final = datetime(9500, 1, 1, tzinfo=UTC)
"""The calendar repeats itself every 400 years, and ends in 9999: what comes at all comes after this."""
_WEEKDAY_FIELD: Final = 4


class CalendarTimes:
    """The times that one crontab line names.

    Args:
        line: minute, hour, day of month, month, day of week; names like `mon-fri` for days of the week.
        zone: an IANA name; "" is the machine's own zone.

    Raises:
        ValueError: it is no such line, or the zone is unknown; the message says why.
    """

    def __init__(self, line: str, zone: str = "") -> None:
        fields = line.split()
        if len(fields) == _WEEKDAY_FIELD + 1 and any(sign.isdigit() for sign in fields[_WEEKDAY_FIELD]):
            # Crontabs count from Sunday, the library from Monday: whichever was meant, half would be wrong.
            raise ValueError("names days of the week by numbers (write them like mon-fri or sun)")
        # Here, as it brings asyncio, and every command reads a configuration that perhaps has no such line.
        from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]  # it has no types

        try:
            trigger = CronTrigger.from_crontab(line, timezone=zone_of(zone) if zone else None)
        except ValueError as error:
            why = f"{str(error)[:1].lower()}{str(error)[1:]}"
            raise ValueError(f"is no crontab line (like 0 8 * * mon-fri): {why}") from error
        self._trigger = trigger

    @property
    def ever_come(self) -> bool:
        """Whether there is such a time at all; a 31 February is none."""
        return self.next(LAST_YEARS) is not None

    def next(self, now: datetime) -> datetime | None:
        """The first time that is not before `now` (which has a zone); None if none ever comes."""
        found: datetime | None = self._trigger.get_next_fire_time(None, now)
        return found

    def last(self, now: datetime) -> datetime | None:
        """The newest time that is not after `now`; None if there was none within LOOK_BACK."""
        start = now - LOOK_BACK
        found = self._up_to(start, now)
        if found is None:
            return None
        # Asked for the next time after each moment: the last moment for which that is not in the future.
        low, high = 0, math.ceil(LOOK_BACK.total_seconds()) + 1
        while high - low > 1:
            middle = (low + high) // 2
            later = self._up_to(start + timedelta(seconds=middle), now)
            if later is None:
                high = middle
            else:
                low, found = middle, later
        return found

    def _up_to(self, start: datetime, now: datetime) -> datetime | None:
        found = self.next(start)
        return found if found is not None and found <= now else None


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("is not a time zone (write one like Europe/Berlin)") from error


def newest(times: Sequence[CalendarTimes], now: datetime) -> int | None:
    """Which of them came last, the later in the list where several came at once; None if none did."""
    came = [(last, index) for index, one in enumerate(times) if (last := one.last(now)) is not None]
    return max(came)[1] if came else None


def next_change(times: Sequence[CalendarTimes], now: datetime) -> datetime | None:
    """When the next of them comes, after `now`."""
    after = now + timedelta(seconds=1)
    return min((found for one in times if (found := one.next(after)) is not None), default=None)
