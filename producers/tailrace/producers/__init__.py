"""Services -> Kafka: emit ordered events from any thread without waiting."""

from tailrace.producers.emit import (
    StreamingService,
    aemit,
    configure,
    emit_agent_event,
    emit_ingest_event,
    emit_workflow_event,
    flush,
    stats,
)
from tailrace.producers.emitter import Emitter, EmitterStats
from tailrace.producers.scope import run_scope
from tailrace.producers.settings import ProducerSettings

__all__ = [
    "Emitter",
    "EmitterStats",
    "ProducerSettings",
    "StreamingService",
    "aemit",
    "configure",
    "emit_agent_event",
    "emit_ingest_event",
    "emit_workflow_event",
    "flush",
    "run_scope",
    "stats",
]
