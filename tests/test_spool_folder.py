"""Which queue records wait in, and that no other cluster gets them."""

import os
from pathlib import Path

import pytest
from memory_log import MemoryLog
from structlog.testing import capture_logs

from tailrace.producers import Emitter, ProducerSettings
from tailrace.producers.lanes import Outgoing
from tailrace.producers.spool import Spool
from tailrace.producers.spool_folder import claim, left_for_others, queue_folder
from tailrace.schemas import decode

RECORD = Outgoing(1, b"p", b"x", [("ce_id", b"1")], 1)


def test_queue_is_one_per_topic_and_list_of_servers(tmp_path: Path) -> None:
    queues = {
        queue_folder(tmp_path, topic, servers)
        for topic in ("t", "u", "../t", "x" * 249)
        for servers in ("a:1", "a:2", "b:1", "a:1,b:1")
    }
    assert len(queues) == 16
    for queue in queues:
        assert queue.parent.parent == tmp_path
        queue.mkdir(parents=True)


def test_order_case_and_spaces_of_the_servers_make_no_difference(tmp_path: Path) -> None:
    lists = ("a:1,b:2", "b:2,a:1", " B:2 , a:1", "a:1,b:2,a:1")
    assert len({queue_folder(tmp_path, "t", servers) for servers in lists}) == 1


def test_folder_is_claimed_once_and_again_when_its_owner_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="lock"):
        claim(tmp_path)
    (tmp_path / "lock").touch()
    first = claim(tmp_path)
    assert first is not None
    assert claim(tmp_path) is None
    os.close(first)
    second = claim(tmp_path)
    assert second is not None
    os.close(second)


def test_what_waits_for_other_servers_is_named_once_its_owner_is_gone(tmp_path: Path) -> None:
    mine, other = (queue_folder(tmp_path, "t", servers) for servers in ("a:1", "b:1"))
    assert list(left_for_others(mine)) == []
    spool = Spool(other, max_bytes=1000)
    spool.append(RECORD)
    assert list(left_for_others(mine)) == []
    spool.close()
    assert list(left_for_others(mine)) == [other]
    assert list(left_for_others(other)) == []


def test_cluster_never_gets_what_waits_for_another_one_of_equal_topic() -> None:
    left, right = MemoryLog(), MemoryLog()
    for log, servers in ((left, "left:1"), (right, "right:1")):
        log.up.clear()
        emitter = _emitter(log, servers)
        emitter.emit("custom", servers, "my.type", {"n": 1})
        assert not emitter.close(0)
        log.up.set()
    with capture_logs() as lines:
        emitter = _emitter(right, "right:1")
        emitter.emit("custom", "right:1", "my.type", {"n": 2})
        assert emitter.close(60)
    assert [decode(r.value).project_id for _, r in right.written] == ["right:1"] * 2
    assert left.written == []
    (line,) = [line for line in lines if line["event"] == "spool_of_other_servers"]
    assert "left" in line["folder"]
    emitter = _emitter(left, "left:1")
    emitter.start()
    assert emitter.close(60)
    assert [decode(r.value).project_id for _, r in left.written] == ["left:1"]


def _emitter(log: MemoryLog, servers: str) -> Emitter:
    settings = ProducerSettings(bootstrap_servers=servers, topic="same")
    return Emitter(settings, connect=log.connect)
