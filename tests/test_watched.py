from collections.abc import Sequence

from logged_record import LoggedRecord, id_of, logged

from tailrace.batching import Watched


def _offsets(records: Sequence[LoggedRecord]) -> list[int]:
    return [record.offset for record in records]


def test_second_record_of_an_id_is_left_out() -> None:
    watched = Watched(id_of)
    records = [logged(1, "x"), logged(2, "x"), logged(3, "y")]
    assert _offsets(watched.admit(records)) == [1, 3]
    assert _offsets(watched.admit([logged(4, "y")])) == []
    assert _offsets(watched.visible([*records, logged(4, "y")])) == [1, 3]


def test_records_without_an_id_are_all_admitted() -> None:
    records = [logged(1), logged(2)]
    assert Watched(id_of).admit(records) == records


def test_id_is_known_until_its_last_record_is_forgotten() -> None:
    watched = Watched(id_of)
    first, second = logged(1, "x"), logged(2, "x")
    watched.admit([first, second])
    watched.forget([first])
    assert _offsets(watched.visible([second])) == []
    assert _offsets(watched.admit([logged(3, "x")])) == []
    watched.forget([second, logged(3, "x")])
    assert _offsets(watched.admit([logged(4, "x")])) == [4]


def test_rejected_record_is_left_out_until_it_is_forgotten() -> None:
    watched = Watched(id_of)
    records = [logged(1, "x"), logged(2)]
    watched.admit(records)
    assert watched.reject(1)
    assert not watched.reject(1)
    assert _offsets(watched.visible(records)) == [2]
    watched.forget(records)
    assert _offsets(watched.visible(records)) == [1, 2]


def test_retry_of_a_rejected_record_is_one() -> None:
    watched = Watched(id_of)
    watched.admit([logged(1, "x")])
    watched.reject(1)
    assert _offsets(watched.admit([logged(2, "x")])) == []


def test_nothing_is_kept_of_what_is_forgotten() -> None:
    watched = Watched(id_of)
    records = [logged(offset, str(offset // 3)) for offset in range(100)]
    watched.admit(records)
    watched.reject(50)
    watched.forget(records[:98])
    assert (watched._ids, watched._left_out) == ({"32": 98, "33": 99}, {98})
    watched.forget(records[98:])
    assert (watched._ids, watched._left_out) == ({}, set())
