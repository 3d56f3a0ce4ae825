"""User journeys for locust: start a run, watch it, drop out, come back and miss nothing.

    TAILRACE_EDGE=ws://127.0.0.1:8400 locust -f bench/locustfile.py --host http://127.0.0.1:8401

``python -m bench journeys`` starts everything and does this. Locust is a closed loop and rounds its
percentiles: it shows that journeys work under load; latencies come from the other scenarios.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import websocket
from locust import HttpUser, constant, task

_EDGE = os.environ.get("TAILRACE_EDGE", "ws://127.0.0.1:8400")
_TEXT = "\n\n".join(f"Paragraph {n}. " + "Ordered, resumable live events. " * 40 for n in range(30))
_WAIT_SECONDS = 30.0
_FACTS = ["ingest.job.created", "ingest.job.completed"]
_USERS = itertools.count()


class WebSocketUser(HttpUser):
    """A user who also has WebSockets; each connection is a request in locust's statistics."""

    abstract = True

    def follow(self, name: str, url: str) -> Iterator[dict[str, Any]]:
        """Yield the messages of a plain stream; leaving off cuts the connection without a word."""
        begun = time.perf_counter()
        error: Exception | None = None
        try:
            socket = websocket.create_connection(url, timeout=_WAIT_SECONDS)
        except (OSError, websocket.WebSocketException) as exc:
            error = exc
            return
        finally:
            self.told(name, begun, error)
        try:
            while True:
                yield json.loads(socket.recv())
        finally:
            socket.shutdown()  # type: ignore[no-untyped-call]

    def told(self, name: str, begun: float, error: Exception | None = None) -> None:
        """Tell locust of something that took from `begun` (perf_counter) until now."""
        self.environment.events.request.fire(
            request_type="WS",
            name=name,
            response_time=(time.perf_counter() - begun) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


class Journey(WebSocketUser):
    """Ingests a document and watches it to its end, over a lost connection."""

    wait_time = constant(0.5)

    def on_start(self) -> None:
        """Be somebody with a project of one's own."""
        self.project = f"journey-{os.getpid()}-{next(_USERS)}"

    @task
    def ingest(self) -> None:
        """Start, watch, drop, resume; every fact must come exactly once and in order."""
        begun = time.perf_counter()
        path = f"/api/projects/{self.project}/ingest"
        answer = self.client.post(path, json={"text": _TEXT}, name="start a run")
        if not answer.ok:
            return
        job = answer.json()["id"]
        stream = f"{_EDGE}/api/stream/projects/{self.project}/ingest/{job}"
        facts: list[str] = []
        cursor = self._watch("watch", stream, facts, leave_early=True)
        if cursor is not None and facts != _FACTS:
            self._watch("resume", f"{stream}?after={cursor}", facts, leave_early=False)
        error = None if facts == _FACTS else AssertionError(f"facts: {facts}")
        self.told("whole journey", begun, error)

    def _watch(self, name: str, url: str, facts: list[str], *, leave_early: bool) -> str | None:
        """Follow until the run is over, or only its first two messages; return the last cursor."""
        cursor = None
        messages = self.follow(name, url)
        try:
            for count, message in enumerate(messages, 1):
                cursor = message["cursor"]
                if not message["type"].endswith(".updated"):
                    facts.append(message["type"])
                if facts[-1:] == _FACTS[-1:] or (leave_early and count == 2):  # noqa: PLR2004
                    break
        except (OSError, websocket.WebSocketException) as error:
            self.told(f"{name}: lost", time.perf_counter(), error)
        finally:
            messages.close()  # type: ignore[attr-defined]  # a generator
        return cursor
