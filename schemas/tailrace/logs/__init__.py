"""How both halves of Tailrace keep their logs, and those of their driver, readable."""

from tailrace.logs.driverlog import quiet_driver
from tailrace.logs.ratelimit import RateLimit

__all__ = ["RateLimit", "quiet_driver"]
