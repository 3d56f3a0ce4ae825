from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.producers.buffer import Buffer, StateKey, Waiting
from tailrace.producers.draft import Draft
from tailrace.producers.payload import Body

STATE, FACT = "ingest.job.updated", "ingest.job.completed"


def draft(event_type: str = STATE, size: int = 0) -> Draft:
    return Draft("ingest", event_type, "p", 0, Body(None, b"x" * size), None, None)


UNIT = draft().size


def tickets(buffer: Buffer, count: int = 1000, max_bytes: int = 1 << 30) -> list[int]:
    return [waiting.ticket for waiting in buffer.take(count, max_bytes)]


def test_drafts_leave_in_the_order_they_came() -> None:
    buffer = Buffer(max_events=10, max_bytes=1 << 20)
    for event_type in (STATE, FACT, STATE, FACT, FACT, STATE):
        buffer.put(draft(event_type))
    assert buffer.oldest() == 1
    assert tickets(buffer, 4) == [1, 2, 3, 4]
    assert buffer.oldest() == 5
    assert tickets(buffer) == [5, 6]
    assert (len(buffer), buffer.bytes, buffer.oldest(), buffer.accepted) == (0, 0, None, 6)


def test_full_buffer_drops_the_oldest_state_first() -> None:
    buffer = Buffer(max_events=3, max_bytes=1 << 20)
    for event_type in (FACT, STATE, FACT, STATE, FACT):
        buffer.put(draft(event_type))
    assert buffer.dropped == 2
    assert tickets(buffer) == [1, 3, 5]


def test_newest_state_is_dropped_rather_than_a_fact() -> None:
    buffer = Buffer(max_events=2, max_bytes=1 << 20)
    for event_type in (FACT, FACT, STATE):
        buffer.put(draft(event_type))
    assert tickets(buffer) == [1, 2]


def test_full_of_facts_it_drops_the_oldest_fact() -> None:
    buffer = Buffer(max_events=2, max_bytes=1 << 20)
    for _ in range(5):
        buffer.put(draft(FACT))
    assert buffer.dropped == 3
    assert tickets(buffer) == [4, 5]


def test_bytes_are_bounded_too() -> None:
    buffer = Buffer(max_events=100, max_bytes=3 * UNIT + 50)
    buffer.put(draft(FACT, 50))
    for _ in range(2):
        buffer.put(draft())
    assert buffer.dropped == 0
    buffer.put(draft())
    assert buffer.dropped == 1
    assert buffer.bytes == 3 * UNIT + 50


def test_draft_larger_than_everything_does_not_drive_out_the_others() -> None:
    buffer = Buffer(max_events=100, max_bytes=4 * UNIT)
    buffer.put(draft())
    buffer.put(draft(FACT, 10 * UNIT))
    assert (buffer.dropped, tickets(buffer)) == (1, [1])


def test_take_is_bounded_in_bytes_but_gives_at_least_one() -> None:
    buffer = Buffer(max_events=100, max_bytes=1 << 20)
    for _ in range(4):
        buffer.put(draft(FACT, 1000))
    size = draft(FACT, 1000).size
    assert tickets(buffer, max_bytes=2 * size) == [1, 2]
    assert tickets(buffer, max_bytes=1) == [3]
    assert tickets(buffer, 0) == []


def keyed(event_type: str, run: str, value: str = "A", entity: str = "e") -> Draft:
    body = Body(None, f"{run}|{entity}|{value}".encode())
    return Draft("ingest", event_type, "p", 0, body, None, None)


def key_of(draft: Draft) -> StateKey:
    run, entity, value = draft.body.json.decode().split("|")
    return StateKey(("p", "ingest", run), (draft.type, entity), f"{entity}|{value}|")


def test_state_that_a_newer_one_stands_for_makes_room_first() -> None:
    buffer = Buffer(max_events=4, max_bytes=1 << 20, key_of=key_of)
    for number, run in enumerate(["old", "old", "r1", "r2", "r2"]):
        buffer.put(keyed(STATE, run, entity=str(number // 3)))
    assert (buffer.conflated, buffer.dropped) == (1, 0)
    assert tickets(buffer) == [1, 2, 3, 5]


def test_transition_is_not_conflated() -> None:
    buffer = Buffer(max_events=3, max_bytes=1 << 20, key_of=key_of)
    for value in "ABAB":
        buffer.put(keyed(STATE, "r", value))
    assert (buffer.conflated, buffer.dropped) == (0, 1)
    assert tickets(buffer) == [2, 3, 4]


def test_fact_of_the_run_seals_its_states_and_no_others() -> None:
    buffer = Buffer(max_events=5, max_bytes=1 << 20, key_of=key_of)
    for event_type, run in [(FACT, "x"), (FACT, "x"), (STATE, "r"), (STATE, "s"), (FACT, "r")]:
        buffer.put(keyed(event_type, run))
    buffer.put(keyed(STATE, "s"))
    assert (buffer.conflated, buffer.dropped) == (1, 0)
    buffer.put(keyed(STATE, "r"))
    assert (buffer.conflated, buffer.dropped) == (1, 1)
    assert tickets(buffer) == [1, 2, 5, 6, 7]


def test_what_was_put_at_ease_seals_too() -> None:
    buffer = Buffer(max_events=4, max_bytes=1 << 20, key_of=key_of)
    for run in "xxr":
        buffer.put(keyed(STATE, run))
    assert tickets(buffer, 2) == [1, 2]
    buffer.put(keyed(STATE, "r", "B"))
    for run in "ryyz":
        buffer.put(keyed(STATE, run))
    assert buffer.conflated == 1
    assert tickets(buffer) == [4, 5, 7, 8]


def test_fact_that_does_not_fit_is_spilled_in_order() -> None:
    spilled: list[int] = []

    def spill(waiting: Waiting) -> bool:
        spilled.append(waiting.ticket)
        return waiting.ticket != 2

    buffer = Buffer(max_events=2, max_bytes=1 << 20, spill=spill)
    for event_type in (FACT, STATE, FACT, FACT, FACT, STATE):
        buffer.put(draft(event_type))
    assert spilled == [1, 3]
    assert buffer.losses.by_type == {STATE: 2}
    assert tickets(buffer) == [4, 5]


def test_fact_that_nobody_takes_is_dropped_and_counted() -> None:
    buffer = Buffer(max_events=1, max_bytes=1 << 20, spill=lambda _: False)
    buffer.put(draft(FACT))
    buffer.put(draft(FACT))
    assert buffer.losses.tell() == ("p", {FACT: 1})


class Model:
    """The policy of `Buffer`, over a plain list."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events, self.max_bytes = max_events, max_bytes
        self.held: list[tuple[int, Draft, bool]] = []
        self.conflated = self.accepted = self.dropped = 0
        self.spilled: list[int] = []

    @property
    def bytes(self) -> int:
        return sum(draft.size for _, draft, _ in self.held)

    def put(self, made: Draft) -> None:
        self.accepted += 1
        if made.size > self.max_bytes:
            self.dropped += 1
            return
        pressed = 2 * len(self.held) >= self.max_events or 2 * self.bytes >= self.max_bytes
        self.held.append((self.accepted, made, pressed))
        while len(self.held) > self.max_events or self.bytes > self.max_bytes:
            self.make_room()

    def make_room(self) -> None:
        outdated = [(by, i) for i in range(len(self.held)) if (by := self.outdated_by(i))]
        if outdated:
            self.conflated += 1
            del self.held[min(outdated)[1]]
            return
        states = [i for i, (_, made, _) in enumerate(self.held) if made.is_state]
        ticket = self.held.pop(states[0] if states else 0)[0]
        if states or ticket % 3 == 0:
            self.dropped += 1
        else:
            self.spilled.append(ticket)

    def outdated_by(self, index: int) -> int | None:
        _, mine, compared = self.held[index]
        if not mine.is_state or not compared:
            return None
        for ticket, other, compared in self.held[index + 1 :]:
            if not compared:
                return None
            if key_of(other).run == key_of(mine).run:
                if not other.is_state:
                    return None
                if key_of(other).entity == key_of(mine).entity:
                    return ticket if key_of(other) == key_of(mine) else None
        return None


puts = st.builds(
    keyed,
    st.sampled_from([STATE, STATE, FACT]),
    st.sampled_from(["r", "s"]),
    st.sampled_from(["A", "B", "B" * 2000]),
    st.sampled_from(["e", "f"]),
)


@PROPERTY
@given(st.lists(puts | st.integers(1, 5), max_size=60), st.integers(1, 8))
def test_it_behaves_like_a_bounded_list(steps: list[Draft | int], max_events: int) -> None:
    spilled: list[int] = []

    def spill(waiting: Waiting) -> bool:
        kept = waiting.ticket % 3 != 0
        spilled.extend([waiting.ticket] if kept else [])
        return kept

    max_bytes = 6 * UNIT
    buffer = Buffer(max_events=max_events, max_bytes=max_bytes, key_of=key_of, spill=spill)
    model = Model(max_events, max_bytes)
    for step in steps:
        if isinstance(step, int):
            assert tickets(buffer, step) == [ticket for ticket, _, _ in model.held[:step]]
            del model.held[:step]
            continue
        buffer.put(step)
        model.put(step)
        assert len(buffer) == len(model.held) <= max_events
        assert buffer.bytes == model.bytes <= max_bytes
        assert buffer.oldest() == (model.held[0][0] if model.held else None)
    assert buffer.accepted == model.accepted
    assert buffer.dropped == model.dropped
    assert buffer.conflated == model.conflated
    assert spilled == model.spilled
    assert tickets(buffer) == [ticket for ticket, _, _ in model.held]
    assert not buffer._latest
    assert not buffer._outdated
