"""The verifier's own road: its clients against an honest edge, its load in a real Kafka."""

import random
from collections import Counter
from pathlib import Path

from test_verifier import a_log
from verifier.dialects import Closed, Dialect
from verifier.expectation import Log, Watch
from verifier.honest_edge import honest_edge
from verifier.judge import Fault, faults, judge
from verifier.load import PROJECT_ENDED, Load
from verifier.plan import Plan, ViewerPlan, read_plan, write_plan
from verifier.recorder import record
from verifier.recording import read_recording
from verifier.soak import Scenario, judge_folder, plan_viewers, recording_by
from verifier.topic import Pace, read_topic, write_load

DIALECTS: tuple[Dialect, ...] = ("plain", "v1", "sse", "json")


def scenario(viewers: int) -> Scenario:
    return Scenario(seconds=1.0, viewers=viewers)


def of_all_sorts(seed: int) -> list[ViewerPlan]:
    return plan_viewers(scenario(48), Load(seed, projects=5, runs=2))


async def test_clients_of_every_dialect_and_mood_lose_nothing_of_an_honest_edge(
    tmp_path: Path,
) -> None:
    records, plans = a_log(5, steps=300), of_all_sorts(5)
    assert len({plan.bundle for plan in plans}) > 3
    async with honest_edge(records, 1) as one, honest_edge(records, 2) as two:
        plan = Plan([one, two], 1, 60, plans)
        async with recording_by(plan, tmp_path, 0) as recorder:
            assert await recorder.wait() == 0

    verdicts = judge_folder(Log(records), tmp_path)
    assert len(verdicts) == 48
    assert [v for verdict in verdicts.values() for v in verdict.violations] == []
    assert min(verdict.delivered for verdict in verdicts.values()) > 0
    connections: Counter[str] = Counter()
    for file in tmp_path.glob("*.ndjson"):
        recording = read_recording(file.read_bytes().splitlines())
        connections[recording.dialect] += len(recording.connections)
    assert min(connections[dialect] for dialect in DIALECTS) > 12, (
        "they were thrown out and resumed"
    )


async def test_an_edge_that_hides_a_record_is_found_by_every_dialect(tmp_path: Path) -> None:
    records = a_log(5, steps=300)
    watch = Watch("p0", start="start")
    victim = random.Random(3).choice(
        [r for r in Log(records).expectation(watch).records[:-1] if r.replaced_by is None]
    )
    hidden = [r for r in records if (r.partition, r.offset) != (0, victim.offset)]
    plans = [ViewerPlan(d, watch, d, "steady", PROJECT_ENDED) for d in DIALECTS]
    async with honest_edge(hidden, 1) as url:
        await record(Plan([url], 1, 60, plans), tmp_path, lambda: None)

    for verdict in judge_folder(Log(records), tmp_path).values():
        assert faults(verdict.violations).keys() & {Fault.LOST_FACT, Fault.LOST_STATE}


async def test_a_viewer_that_is_refused_says_so(tmp_path: Path) -> None:
    watch = Watch("p0", start="start")
    plans = [ViewerPlan(d, watch, d, "steady", PROJECT_ENDED) for d in DIALECTS]
    async with honest_edge([], 1) as url:
        nowhere = url + "/nothing"
        await record(Plan([nowhere], 1, 60, plans), tmp_path, lambda: None)

    for dialect in DIALECTS:
        recording = read_recording((tmp_path / f"{dialect}.ndjson").read_bytes().splitlines())
        assert recording.end == "refused"
        if dialect in {"sse", "json"}:
            assert isinstance(recording.connections[-1].frames[-1], Closed)


async def test_a_viewer_without_an_end_is_ended_by_the_deadline(tmp_path: Path) -> None:
    plans = [ViewerPlan(d, Watch("p0"), d, "steady", "never") for d in DIALECTS[:2]]
    records = a_log(5, steps=30)
    async with honest_edge(records, 1) as url:
        await record(Plan([url], 1, 1.0, plans), tmp_path, lambda: None)

    log = Log(records)
    for dialect in DIALECTS[:2]:
        recording = read_recording((tmp_path / f"{dialect}.ndjson").read_bytes().splitlines())
        assert recording.end == "deadline"
        verdict = judge(log.expectation(recording.watch), recording)
        assert faults(verdict.violations) == {Fault.UNFINISHED: 1}


async def test_a_load_is_in_the_topic_as_it_was_written(kafka: str, topic: str) -> None:
    count = await write_load(kafka, topic, Load(4), Pace(2000, 0.25))

    records = await read_topic(kafka, topic)

    load = Load(4)
    planned = [*load.begin()]
    begun = len(planned)
    while len(planned) < begun + 500:
        planned += load.step()
    planned = [*planned[: begun + 500], *load.end()]
    assert len(records) == len(planned) == count
    for project in load.projects:
        key = project.encode()
        found = [(r.value, [*r.headers]) for r in records if r.key == key]
        assert found == [(p.value, p.headers) for p in planned if p.key == key]
    assert len({record.partition for record in records}) > 1


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Plan(["http://a"], 1, 2.0, of_all_sorts(1))
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_bundles_hold_a_channel_once() -> None:
    plans = plan_viewers(scenario(400), Load(1))
    channels = [(p.bundle, p.watch._replace(start="live")) for p in plans if p.bundle]
    assert len(channels) == len(set(channels)) > 20
