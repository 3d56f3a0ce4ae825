from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from indexed import put

from tailrace.services.audit import audit
from tailrace.services.errors import RunFailedError
from tailrace.services.index import SearchIndex


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "index.db", max_bytes=1 << 22) as index:
        put(index, "p", "a.md", "The river feeds the dam.")
        yield index


@pytest.mark.parametrize(
    ("require", "missing"), [(["river"], []), (["dam", "zebra", "lake"], ["zebra", "lake"])]
)
async def test_missing_words_are_found(
    index: SearchIndex, require: list[str], missing: list[str]
) -> None:
    last = await audit(index, "p").ainvoke({"input": {"require": require}})
    assert last["output"] == {"passed": not missing, "missing": missing, "documents": 1}


@pytest.mark.parametrize(
    ("project", "given", "message"),
    [
        ("p", {}, r"^input\.require: Field required"),
        ("p", {"require": "river"}, r"^input\.require: "),
        ("p", {"require": []}, r"^input\.require: "),
        ("p", {"require": [7]}, r"^input\.require\.0: "),
        ("p", {"require": ["a"], "more": 1}, r"^input\.more: "),
        ("q", {"require": ["a"]}, "no documents"),
    ],
)
async def test_bad_input_fails_with_the_reason(
    index: SearchIndex, project: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunFailedError, match=message):
        await audit(index, project).ainvoke({"input": given})
