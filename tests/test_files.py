import os
from pathlib import Path

import pytest

from tailrace.schemas import ParameterError
from tailrace.services.errors import (
    NotFoundError,
    PathForbiddenError,
    TooLargeError,
    UnsupportedTypeError,
)
from tailrace.services.files import FileRoot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("text")
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "b.md").write_text("secret")
    return folder


@pytest.fixture
def files(root: Path) -> FileRoot:
    return FileRoot(root, max_bytes=10)


def test_repr_names_the_folder(files: FileRoot, root: Path) -> None:
    assert repr(files) == f"<FileRoot {root}>"


def test_all_names_of_a_file_are_located_as_one(files: FileRoot, root: Path) -> None:
    (root / "link.md").symlink_to("docs/a.md")
    (root / "folder").symlink_to(root / "docs")
    names = ["docs/a.md", "./docs/../docs/a.md", str(root / "docs/a.md"), "link.md", "folder/a.md"]
    assert {files.locate(name) for name in names} == {"docs/a.md"}


def test_file_is_read(files: FileRoot) -> None:
    assert files.read("docs/a.md") == b"text"


@pytest.mark.parametrize(
    "path",
    ["../secret.md", "docs/../../secret.md", "/etc/passwd", "../nothing.md", "../root-too/b.md"],
)
def test_path_out_of_the_root_is_forbidden_whether_it_exists_or_not(
    files: FileRoot,
    path: str,
) -> None:
    with pytest.raises(PathForbiddenError):
        files.locate(path)


@pytest.mark.parametrize("target", ["../secret.md", "/etc", "docs/../../secret.md"])
def test_link_out_of_the_root_is_forbidden(files: FileRoot, root: Path, target: str) -> None:
    (root / "link.md").symlink_to(target)
    with pytest.raises(PathForbiddenError):
        files.read("link.md")


def test_folder_swapped_for_a_link_after_the_check_is_not_followed(
    files: FileRoot,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved = files._relative("docs/a.md")
    (root / "docs").rename(root / "was")
    (root / "docs").symlink_to(root.parent / "root-too")
    (root.parent / "root-too" / "a.md").write_text("secret")
    monkeypatch.setattr(files, "_relative", lambda _path: resolved)
    with pytest.raises((PathForbiddenError, NotFoundError)):
        files.read("docs/a.md")


@pytest.mark.parametrize("path", ["nothing.md", "nowhere/a.md", "docs/a.md/b.md"])
def test_missing_file_is_not_found(files: FileRoot, path: str) -> None:
    with pytest.raises(NotFoundError):
        files.locate(path)


@pytest.mark.parametrize("path", ["docs", ".", "", "docs/"])
def test_folder_is_refused_with_advice(files: FileRoot, path: str) -> None:
    with pytest.raises(ParameterError, match="is a folder: send one request per file"):
        files.locate(path)


def test_fifo_is_refused_without_waiting_for_its_writer(files: FileRoot, root: Path) -> None:
    os.mkfifo(root / "pipe.md")
    with pytest.raises(ParameterError, match="not a regular file"):
        files.read("pipe.md")


@pytest.mark.parametrize("path", ["a\0.md", "x" * 300 + ".md", "\ud800.md"])
def test_impossible_path_is_refused(files: FileRoot, path: str) -> None:
    with pytest.raises(ParameterError):
        files.locate(path)


def test_loop_of_links_is_refused(files: FileRoot, root: Path) -> None:
    (root / "loop.md").symlink_to("loop.md")
    with pytest.raises((ParameterError, PathForbiddenError)):
        files.locate("loop.md")


def test_other_kinds_of_files_are_refused_with_the_kinds_that_are_not(
    files: FileRoot,
    root: Path,
) -> None:
    (root / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UnsupportedTypeError, match=r"only \.txt \.text \.md"):
        files.locate("a.pdf")


def test_link_is_judged_by_the_name_it_leads_to(files: FileRoot, root: Path) -> None:
    (root / ".env").write_text("secret")
    (root / "a.md").symlink_to(".env")
    with pytest.raises(UnsupportedTypeError):
        files.read("a.md")


def test_file_above_the_bound_is_refused(files: FileRoot, root: Path) -> None:
    (root / "b.md").write_bytes(b"x" * 10)
    assert len(files.read("b.md")) == 10
    (root / "b.md").write_bytes(b"x" * 11)
    with pytest.raises(TooLargeError):
        files.locate("b.md")


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_no_descriptor_is_left_open(files: FileRoot) -> None:
    before = open_descriptors()
    files.read("docs/a.md")
    with pytest.raises(NotFoundError):
        files.read("docs/b.md")
    assert open_descriptors() == before
