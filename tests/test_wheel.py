"""What users install: the wheel holds the product, all of it and nothing else, and works alone."""

import email
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
from importlib.metadata import EntryPoint

sys.path.insert(0, sys.argv[1])
names = json.loads(sys.argv[2])
files = {name: importlib.import_module(name).__file__ for name in names}
from tailrace.schemas import EVENT_TYPES, Event, decode, encode, event_json
event = Event("id", "ingest.job.created", 0, "p", "ingest", "j", "j", "s", 1, None, None, None,
              None, '{"job":{}}')
assert decode(encode(event)) == event and event_json(event) and len(EVENT_TYPES) == 21
assert callable(EntryPoint("tailrace", sys.argv[3], "console_scripts").load())
print(json.dumps(files))
"""


def product_files() -> set[str]:
    """Return the files of all packages, by their names in the wheel."""
    return {
        path.relative_to(namespace.parent).as_posix()
        for namespace in ROOT.glob("*/tailrace")
        for path in namespace.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel: Path, name: str) -> str:
    """Return the text of a file of the wheel's dist-info folder."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [m for m in archive.namelist() if m.endswith(f".dist-info/{name}")]
        return archive.read(member).decode()


def test_the_wheel_holds_every_file_of_the_product_and_nothing_else(names: list[str]) -> None:
    assert {name for name in names if ".dist-info/" not in name} == product_files()


def test_no_file_is_in_the_wheel_twice(names: list[str]) -> None:
    assert len(names) == len(set(names))


def test_the_wheel_holds_what_is_not_python(names: list[str]) -> None:
    packages = {name.split("/")[1] for name in names if name.endswith("/__init__.py")}
    assert {"batching", "cli", "client", "edge", "producers", "schemas", "services"} <= packages
    assert {f"tailrace/{package}/py.typed" for package in packages} <= set(names)
    assert "tailrace/schemas/event.v1.avsc" in names


def test_the_wheel_carries_the_license(wheel: Path) -> None:
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text("utf-8")
    assert email.message_from_string(metadata(wheel, "METADATA"))["License-Expression"] == (
        "Apache-2.0"
    )


def test_the_wheel_installs_the_command(wheel: Path) -> None:
    text = metadata(wheel, "entry_points.txt")
    assert text.split("\n")[:2] == ["[console_scripts]", "tailrace = tailrace.cli.main:main"]


def test_the_edge_is_an_extra(wheel: Path) -> None:
    requires = email.message_from_string(metadata(wheel, "METADATA")).get_all("Requires-Dist", [])
    aiohttp = [line for line in requires if line.startswith("aiohttp")]
    assert aiohttp
    assert all("extra ==" in line for line in aiohttp)


def test_every_module_works_from_the_wheel_alone(
    wheel: Path, names: list[str], tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): str(site / name)
        for name in names
        if name.endswith(".py") and not name.endswith("__main__.py")
    }
    arguments = [str(site), json.dumps(sorted(modules)), "tailrace.cli.main:main"]
    ran = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", IMPORT_EVERYTHING, *arguments],
        cwd=elsewhere,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == modules
    assert ran.stderr == ""
    assert list(elsewhere.iterdir()) == []
