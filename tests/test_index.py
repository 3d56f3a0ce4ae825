from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailrace.services.documents import Chunk
from tailrace.services.errors import NotFoundError, StorageError
from tailrace.services.index import Document, Passage, SearchIndex
from tailrace.services.jobs import new_job

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "index.db", max_bytes=1024 * 1024) as index:
        yield index


def begin(index: SearchIndex, job_id: str, *texts: str, path: str = "a.md", p: str = "p") -> None:
    index.begin(new_job(job_id, p, NOW, path=path))
    for number, text in enumerate(texts):
        index.add(job_id, number, Chunk(text, f"Heading {number}"))


def found(index: SearchIndex, query: str, project: str = "p") -> list[str]:
    return [passage.text for passage in index.search(project, query)]


def rows(index: SearchIndex) -> int:
    with index.transaction() as transaction:
        counts = [
            transaction.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("documents", "chunks", "passages")
        ]
    return sum(counts)


def test_published_chunks_are_found(index: SearchIndex) -> None:
    begin(index, "j1", "the river", "the dam")
    index.publish("j1")
    assert index.search("p", "dam") == [Passage("file:a.md", "a.md", 1, "Heading 1", "the dam")]
    assert index.is_published("j1")


def test_unpublished_chunks_are_out_of_sight(index: SearchIndex) -> None:
    begin(index, "j1", "the river")
    assert found(index, "river") == []
    assert not index.is_published("j1")


def test_projects_are_strictly_apart(index: SearchIndex) -> None:
    for job_id, project in (("j1", "p"), ("j2", "q")):
        begin(index, job_id, f"river of {project}", p=project)
        index.publish(job_id)
    assert found(index, "river") == ["river of p"]
    assert found(index, "river", "q") == ["river of q"]
    assert found(index, "river", "r") == []


def test_later_document_of_a_source_replaces_the_earlier_one(index: SearchIndex) -> None:
    begin(index, "j1", "old river", "old dam")
    index.publish("j1")
    begin(index, "j2", "new river")
    assert found(index, "river") == ["old river"]
    index.publish("j2")
    assert found(index, "river dam") == ["new river"]
    assert rows(index) == 3


def test_overtaken_document_does_not_replace_the_later_one(index: SearchIndex) -> None:
    begin(index, "j1", "old river")
    begin(index, "j2", "new river")
    index.publish("j2")
    index.publish("j1")
    assert found(index, "river") == ["new river"]
    assert rows(index) == 3


def test_documents_of_other_sources_stay(index: SearchIndex) -> None:
    for job_id, path in (("j1", "a.md"), ("j2", "b.md")):
        begin(index, job_id, f"river in {path}", path=path)
        index.publish(job_id)
    assert sorted(found(index, "river")) == ["river in a.md", "river in b.md"]


def test_discarded_document_leaves_nothing(index: SearchIndex) -> None:
    begin(index, "j1", "river", "dam")
    index.discard("j1")
    index.discard("never begun")
    assert rows(index) == 0


def test_what_was_never_published_is_swept(index: SearchIndex) -> None:
    begin(index, "j1", "kept river")
    index.publish("j1")
    begin(index, "j2", "half a river")
    index.discard_unpublished()
    assert rows(index) == 3
    assert found(index, "river") == ["kept river"]


def test_search_matches_word_forms_accents_and_headings(index: SearchIndex) -> None:
    begin(index, "j1", "Flowing through a café")
    index.publish("j1")
    for query in ("flows", "cafe", "heading", "unknown OR cafe"):
        assert len(found(index, query)) == 1, query


def test_best_match_comes_first_and_the_limit_holds(index: SearchIndex) -> None:
    begin(index, "j1", "river", "river dam", "lake")
    index.publish("j1")
    assert [passage.text for passage in index.search("p", "river dam", 1)] == ["river dam"]


@pytest.mark.parametrize(
    "query",
    ['"', "river AND", "NEAR(", "text:river*", "^ - +", "", "(((", "'; DROP TABLE chunks"],
)
def test_no_query_is_syntax(index: SearchIndex, query: str) -> None:
    begin(index, "j1", "river")
    index.publish("j1")
    assert found(index, query) in ([], ["river"])


def test_long_query_is_cut(index: SearchIndex) -> None:
    begin(index, "j1", "river")
    index.publish("j1")
    assert found(index, "nothing " * 32 + "river") == []
    assert found(index, "river " + "nothing " * 10_000) == ["river"]


def test_full_index_refuses_more_and_still_searches(tmp_path: Path) -> None:
    with SearchIndex(tmp_path / "small.db", max_bytes=128 * 1024) as index:
        begin(index, "j1", "river")
        index.publish("j1")
        with pytest.raises(StorageError, match="full"):
            begin(index, "j2", "x" * 200_000, path="b.md")
        index.discard("j2")
        assert found(index, "river") == ["river"]


def test_index_survives_a_restart(tmp_path: Path) -> None:
    with SearchIndex(tmp_path / "i.db", max_bytes=1024 * 1024) as index:
        begin(index, "j1", "river")
        index.publish("j1")
    with SearchIndex(tmp_path / "i.db", max_bytes=1024 * 1024) as index:
        assert found(index, "river") == ["river"]


def test_documents_are_listed_counted_and_read_as_published(index: SearchIndex) -> None:
    begin(index, "j1", "one", "two", path="b.md")
    begin(index, "j2", "river")
    begin(index, "j3", "elsewhere", p="q")
    begin(index, "j4", "not yet", path="c.md")
    for job_id in ("j1", "j2", "j3"):
        index.publish(job_id)
    listed = [Document("file:a.md", "a.md", 1), Document("file:b.md", "b.md", 2)]
    assert index.documents("p", 9) == listed
    assert index.documents("p", 1) == listed[:1]
    assert (index.count("p"), index.count("q"), index.count("none")) == (2, 1, 0)
    assert index.read("p", "file:b.md", 9) == "one\n\ntwo"
    assert index.read("p", "file:b.md", 1) == "one"


@pytest.mark.parametrize("project", ["p", "q"])
def test_document_of_nobody_or_another_project_is_not_found(
    index: SearchIndex, project: str
) -> None:
    begin(index, "j1", "hidden")
    with pytest.raises(NotFoundError, match=r"^there is no document 'file:a\.md'$"):
        index.read(project, "file:a.md", 1)
