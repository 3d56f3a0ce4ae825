"""Settings of an edge node: environment variables ``TAILRACE_…``, each also a flag."""

from ipaddress import ip_address
from typing import Literal, Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["EdgeSettings"]


class EdgeSettings(BaseSettings):
    """What an edge node can be told; the defaults suit production behind a load balancer."""

    model_config = SettingsConfigDict(
        env_prefix="TAILRACE_", populate_by_name=True, use_attribute_docstrings=True
    )

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "bootstrap_servers"),
    )
    """Kafka, comma list of ``host:port``."""
    topic: str = "tailrace.events"
    """Topic to read."""
    fetch: Literal["low-latency", "economical"] = "low-latency"
    """``low-latency`` reads each record at once; ``economical`` lets Kafka gather them for up to
    25 ms, for less CPU."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8400, ge=0, le=65535)
    """Port to listen on; 0 is any."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that share the port: one per core."""
    insecure: bool = False
    """Serve everything to everyone on an address that is not loopback."""
    allowed_origins: str = ""
    """Comma list of browser origins beside the edge's own, e.g. ``https://app.example``."""
    max_connections: int = Field(default=50_000, ge=1)
    """Viewers per process; one more is refused with 503."""
    max_message_bytes: int = Field(default=65_536, ge=128)
    """Longest message from a client; a longer one closes with 1009."""
    heartbeat_ms: int = Field(default=25_000, ge=100)
    """Between two pings of a connection, and two cursors of an idle channel."""
    handshake_seconds: float = Field(default=10.0, gt=0)
    """Time for a whole request, headers and body, from the moment of the connection."""
    drain_seconds: float = Field(default=10.0, ge=0)
    """Grace after SIGTERM."""
    session_buffer_bytes: int = Field(default=1 << 18, ge=1 << 12)
    """With more waiting in a viewer's socket, that viewer is skipped until it has drained."""
    journal_max_bytes: int = Field(default=1 << 28, ge=0)
    """Memory for the newest part of the log, per process."""
    replay_max_bytes: int = Field(default=1 << 30, ge=0)
    """How far back one replay may read in its partition."""
    ready_lag_records: int = Field(default=10_000, ge=1)
    """A node whose partition lags by more is not ready."""

    @property
    def sse_heartbeat_seconds(self) -> float:
        """How long a stream of server-sent events may be idle: some proxies cut it after 16 s."""
        return min(self.heartbeat_ms / 1000, 10.0)

    @property
    def origins(self) -> frozenset[str]:
        """`allowed_origins`, split."""
        return frozenset(
            o.strip().rstrip("/") for o in self.allowed_origins.split(",") if o.strip()
        )

    @model_validator(mode="after")
    def _open_to_all_only_on_purpose(self) -> Self:
        if not (self.insecure or _is_loopback(self.host)):
            message = (
                f"{self.host} is not loopback and no auth is set: bind 127.0.0.1 or --insecure"
            )
            raise ValueError(message)
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
