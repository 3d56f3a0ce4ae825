"""Settings of the producing side: environment variables ``TAILRACE_…``."""

import os
import socket
import sys
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ProducerSettings", "default_source", "state_folder"]


def state_folder() -> Path:
    """Return Tailrace's folder in the user's state folder (XDG Base Directory Specification).

    A user without a home, as in some containers, gets one in the folder for temporary files.
    """
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "tailrace"
    try:
        return Path.home() / ".local" / "state" / "tailrace"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"tailrace-{os.getuid()}"


def default_source(program: str, host: str) -> str:
    """Return ``program@host``; the program of ``python -m package`` is the package."""
    path = Path(program)
    name = path.parent.name if path.stem == "__main__" else path.stem
    return f"{name or 'python'}@{host}"


def _kafkas_own(settings: BaseSettings) -> list[str]:
    """Return the variables that are named as Kafka's other clients name them."""
    aliases = [field.validation_alias for field in type(settings).model_fields.values()]
    return [str(a.choices[0]) for a in aliases if isinstance(a, AliasChoices)]


class ProducerSettings(BaseSettings):
    """What an emitter can be told; the defaults suit a service in production."""

    model_config = SettingsConfigDict(env_prefix="TAILRACE_", populate_by_name=True)

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        validation_alias=AliasChoices("KAFKA_BOOTSTRAP_SERVERS", "bootstrap_servers"),
    )
    """Comma list of ``host:port``."""
    topic: str = "tailrace.events"
    sink: Literal["kafka", "stdout", "memory"] = "kafka"
    """``stdout`` prints lines that ``tailrace produce`` takes; ``memory`` keeps nothing, and is for
    tests. Neither uses the spool."""
    source: str = Field(
        default_factory=lambda: default_source(sys.argv[0], socket.gethostname()), min_length=1
    )
    """Name of this service; each process adds an instance of its own to it."""
    max_event_bytes: int = Field(default=900_000, ge=1024)
    """A larger body is sent reduced; below the broker's `max.message.bytes` (1 MiB)."""
    buffer_max_events: int = Field(default=100_000, ge=1)
    """Events that may wait for Kafka; see `tailrace.producers.buffer` for what is dropped then."""
    buffer_max_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """The same bound in bytes of bodies."""
    spool_dir: Path = Field(default_factory=lambda: state_folder() / "spool")
    """Where events wait that memory cannot hold, or that are left when the process ends. Shared by
    any number of processes; each topic and each list of bootstrap servers has a queue of its own in
    there, so that what waits for one cluster never goes to another."""
    spool_max_bytes: int = Field(default=1 << 30, ge=0)
    """What each process may keep there; 0 keeps nothing, and what is left at the end is lost."""
    spool_sync_ms: int = Field(default=1000, ge=1)
    """How long a write to the spool may wait for the disk: what a power failure may take. The death
    of the process takes nothing."""
    linger_ms: float = Field(default=5.0, ge=0, le=1000)
    """How long events gather under load, a quarter of it where there is little; one after silence
    never waits."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        validation_alias=AliasChoices("KAFKA_SECURITY_PROTOCOL", "security_protocol"),
    )
    """The last three need what follows; TLS trusts the system's authorities by default."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="PLAIN", validation_alias=AliasChoices("KAFKA_SASL_MECHANISM", "sasl_mechanism")
    )
    sasl_username: str | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SASL_USERNAME", "sasl_username")
    )
    sasl_password: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SASL_PASSWORD", "sasl_password")
    )
    sasl_token_file: Path | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SASL_TOKEN_FILE", "sasl_token_file")
    )
    """File with the access token for OAUTHBEARER, as a platform mounts it and keeps it fresh: it is
    read anew for each connection."""
    ssl_cafile: Path | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SSL_CAFILE", "ssl_cafile")
    )
    """PEM file of the authorities that brokers' certificates are checked against."""
    ssl_certfile: Path | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SSL_CERTFILE", "ssl_certfile")
    )
    """PEM file of our own certificate, where brokers ask for one."""
    ssl_keyfile: Path | None = Field(
        default=None, validation_alias=AliasChoices("KAFKA_SSL_KEYFILE", "ssl_keyfile")
    )
    request_timeout_ms: int = Field(default=30_000, ge=500)
    """How long a broker may take to answer before its connection is given up."""
    exit_ms: int = Field(default=2000, ge=0)
    """How long the interpreter's exit may wait for events that are still on their way."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        """Refuse what is nearly a setting of ours; other parts of Tailrace have further ones.

        A name of Kafka's that is nearly one of ours is another program's where ours is set too.
        """
        known = [f"TAILRACE_{name.upper()}" for name in type(self).model_fields] + _kafkas_own(self)
        for name in os.environ:
            if name.startswith(("TAILRACE_", "KAFKA_")) and name not in known:
                nearest = get_close_matches(name, known, n=1, cutoff=0.9)
                if nearest and (name.startswith("TAILRACE_") or nearest[0] not in os.environ):
                    message = f"unknown setting {name}: did you mean {nearest[0]}?"
                    raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _sasl_has_an_account(self) -> Self:
        if not self.security_protocol.startswith("SASL"):
            return self
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token_file is None:
                message = "KAFKA_SASL_MECHANISM asks for a token: set KAFKA_SASL_TOKEN_FILE"
                raise ValueError(message)
        elif not (self.sasl_username and self.sasl_password):
            message = "KAFKA_SECURITY_PROTOCOL asks for an account: set KAFKA_SASL_USERNAME and"
            raise ValueError(f"{message} KAFKA_SASL_PASSWORD")
        return self

    @model_validator(mode="after")
    def _buffer_holds_an_event(self) -> Self:
        if self.buffer_max_bytes < 2 * self.max_event_bytes:
            message = "buffer_max_bytes must be at least twice max_event_bytes"
            raise ValueError(message)
        return self
