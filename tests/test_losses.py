from tailrace.producers.losses import OTHER, Losses


def test_losses_are_told_once_by_project_and_type() -> None:
    losses = Losses()
    assert not losses.untold()
    for project, event_type in [("p", "a"), ("p", "a"), ("p", "b"), ("q", "a")]:
        losses.add(project, event_type)
    assert losses.untold()
    assert losses.tell() == ("p", {"a": 2, "b": 1})
    losses.add("p", "b")
    assert losses.tell() == ("q", {"a": 1})
    assert losses.tell() == ("p", {"b": 1})
    assert not losses.untold()
    assert (losses.total, losses.by_type) == (5, {"a": 3, "b": 2})


def test_tables_are_bounded_and_totals_complete() -> None:
    losses = Losses(max_projects=2, max_types=2)
    for project in "pqr":
        for event_type in "abcd":
            losses.add(project, event_type)
    assert losses.tell() == ("p", {"a": 1, "b": 1, OTHER: 2})
    assert losses.tell() == ("q", {"a": 1, "b": 1, OTHER: 2})
    assert not losses.untold()
    assert (losses.total, losses.by_type) == (12, {"a": 3, "b": 3, OTHER: 6})
