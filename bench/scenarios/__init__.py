"""The scenarios, by the name that the command takes."""

from collections.abc import Mapping

from bench.scenario import Scenario
from bench.scenarios import consume, fan_out, idle, journeys, resume, slow, storms, workers

__all__ = ["SCENARIOS"]

SCENARIOS: Mapping[str, Scenario] = {
    "hot": fan_out.HOT,
    "many": fan_out.MANY,
    "wide": fan_out.WIDE,
    "burst": fan_out.BURST,
    "keys": fan_out.KEYS,
    "latency": fan_out.LATENCY,
    "slow": slow.SLOW,
    "connect": storms.CONNECT,
    "resume": resume.RESUME,
    "churn": storms.CHURN,
    "memory": idle.MEMORY,
    "stalls": idle.STALLS,
    "consume": consume.CONSUME,
    "workers": workers.WORKERS,
    "journeys": journeys.JOURNEYS,
}
