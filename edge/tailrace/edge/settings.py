"""Settings of an edge node: environment variables ``TAILRACE_…``, each also a flag."""

from ipaddress import ip_address
from typing import Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["EdgeSettings"]


class EdgeSettings(BaseSettings):
    """What an edge node can be told; the defaults suit production behind a load balancer."""

    model_config = SettingsConfigDict(env_prefix="TAILRACE_", populate_by_name=True)

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "bootstrap_servers"),
    )
    topic: str = "tailrace.events"
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    insecure: bool = False
    """Serve everything to everyone on an address that is not loopback."""
    allowed_origins: str = ""
    """Comma list of browser origins beside the edge's own, e.g. ``https://app.example``."""
    max_connections: int = Field(default=50_000, ge=1)
    """Viewers per process; one more is refused with 503."""
    max_message_bytes: int = Field(default=65_536, ge=128)
    """Longest message from a client; a longer one closes with 1009."""
    heartbeat_ms: int = Field(default=25_000, ge=1000)
    drain_seconds: float = Field(default=10.0, ge=0)
    """Grace after SIGTERM."""
    session_buffer_bytes: int = Field(default=1 << 20, ge=1 << 16)
    """What may wait in one viewer's socket before that viewer counts as too slow."""
    ready_lag_records: int = Field(default=10_000, ge=1)
    """A node whose partition lags by more is not ready."""

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
