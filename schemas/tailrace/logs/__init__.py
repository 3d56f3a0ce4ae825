"""How both halves of Tailrace keep their logs readable, and their driver quiet."""

from tailrace.logs.driverlog import quiet_driver
from tailrace.logs.patience import patient
from tailrace.logs.ratelimit import RateLimit

__all__ = ["RateLimit", "patient", "quiet_driver"]
