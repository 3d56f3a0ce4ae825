"""The rules that hold everywhere: where things stand, how large they are, who imports whom."""

import ast
import importlib
import importlib.metadata
import inspect
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from importlinter import cli as importlinter
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tailrace.schemas import TailraceError

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = sorted(path for path in ROOT.glob("*/tailrace/*/") if path.name != "__pycache__")
SOURCES = sorted(ROOT.glob("*/tailrace/**/*.py"))
MODULES = [path for path in SOURCES if path.stem not in {"__init__", "__main__"}]
TESTS = sorted((ROOT / "tests").glob("**/*.py"))
BENCHES = sorted((ROOT / "bench").glob("**/*.py"))

CROSS_CUTTING = {
    "test_architecture": "the rules of the whole tree",
    "test_bad_states": "records that nobody may see, through hub, journal and replay",
    "test_bench": "the benchmarks, from a command to its report",
    "test_bench_generator": "the benchmarks' load generator, against a scripted server",
    "test_client_road": "the Python client and the terminal against a real edge",
    "test_compose": "compose.yaml",
    "test_live_page": "the page that an edge serves, in a real browser",
    "test_faults": "what emitted events survive: brokers, processes and disks that fail",
    "test_partitioning": "our partitions and those of the Java client",
    "test_road": "a record through Kafka and an edge to its viewers",
    "test_road_gaps": "what viewers are told of what they cannot get",
    "test_road_resume": "viewers who come back, late or in crowds",
    "test_road_topic": "what happens to a topic in Kafka",
    "test_schema_evolution": "the topic through time and other people's software",
    "test_verified_faults": "nobody loses anything while everything fails",
    "test_verified_sabotage": "an edge that does wrong is found out",
    "test_verifier": "the proof that nothing is lost, against itself",
    "test_verifier_road": "the proof's own clients, load and processes",
    "test_wheel": "what users install",
}
"""Tests that belong to no single module, and what each is about."""

MAX_LINES = 450
MAX_FUNCTION_LINES = 60
VAGUE = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}

# Spelled so that this file does not match itself.
FOREIGN_ADDRESS = re.compile(r"/wor[k]/|https?://\S*(?:pyp[i]|npmj[s]|mave[n]|crate[s])")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def expected_tests() -> dict[str, str]:
    """Return the test module of each source module, by the file of the source."""
    shared = {stem for stem, count in Counter(m.stem for m in MODULES).items() if count > 1}
    return {
        relative(m): f"test_{m.parent.name}_{m.stem}" if m.stem in shared else f"test_{m.stem}"
        for m in MODULES
    }


def all_errors() -> list[type[BaseException]]:
    """Return the exceptions that our modules define, private ones left out."""
    modules = [importlib.import_module(module_name(path)) for path in SOURCES]
    return [
        thing
        for module in modules
        for name, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, BaseException)
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    ]


# Tests belong to modules


def test_every_module_has_its_test_module() -> None:
    present = {path.stem for path in TESTS}
    missing = [f"{m}: {test}.py" for m, test in expected_tests().items() if test not in present]
    assert not missing, "\n".join(missing)


def test_every_test_module_has_its_module() -> None:
    known = {*expected_tests().values(), *CROSS_CUTTING}
    stray = [relative(t) for t in TESTS if t.stem.startswith("test_") and t.stem not in known]
    assert stray == []


def test_the_cross_cutting_tests_are_there() -> None:
    assert set(CROSS_CUTTING) <= {path.stem for path in TESTS}
    assert not set(CROSS_CUTTING) & set(expected_tests().values())


# Who imports whom


@pytest.fixture
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what import-linter does to the path, and keep it from silencing all loggers."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("importlinter.cli.logging_config.dictConfig", lambda _: None)


@pytest.mark.usefixtures("own_path")
def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    code = importlinter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out


@pytest.mark.usefixtures("own_path")
def test_an_import_the_wrong_way_would_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upside_down = tmp_path / "pyproject.toml"
    upside_down.write_text(
        """
        [tool.importlinter]
        root_packages = ["tailrace.schemas", "tailrace.batching"]
        [[tool.importlinter.contracts]]
        name = "upside down"
        type = "layers"
        layers = ["tailrace.schemas", "tailrace.batching"]
        """
    )
    assert importlinter.lint_imports(config_filename=str(upside_down), no_cache=True) == 1
    assert "tailrace.batching is not allowed to import tailrace.schemas" in capsys.readouterr().out


def test_the_contracts_and_the_wheel_know_every_package() -> None:
    found = {f"tailrace.{path.name}" for path in PACKAGES}
    assert found == set(PYPROJECT["tool"]["importlinter"]["root_packages"])
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PACKAGES}
    assert folders == set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


# How the source reads


def test_no_name_says_nothing() -> None:
    files = [path for path in SOURCES + TESTS + BENCHES if VAGUE & set(path.stem.split("_"))]
    assert [relative(path) for path in files] == []
    assert [path.name for path in PACKAGES if path.name in VAGUE] == []


def test_no_source_file_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{relative(path)}:{function.lineno} {function.name}": (
            (function.end_lineno or 0) - function.lineno + 1
        )
        for path in SOURCES
        for function in functions(path)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_only_says_what_is_public(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text("utf-8"))
    docstring, *rest = tree.body
    assert ast.get_docstring(tree), "say in one line what the package is"
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        match node:
            case ast.Import() | ast.ImportFrom():
                pass
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case _:
                pytest.fail(f"line {node.lineno}: neither an import nor __all__")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_what_a_package_imports_is_public(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text("utf-8"))
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    public = importlib.import_module(f"tailrace.{package.name}").__dict__.get("__all__", [])
    assert sorted(imported) == sorted(public)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()
    assert not (package.parent / "__init__.py").exists(), "tailrace is a namespace"


def test_every_error_stands_in_the_one_tree() -> None:
    outside = [error for error in all_errors() if not issubclass(error, TailraceError)]
    assert outside == []


# The repository


def repository_files() -> list[Path]:
    """Return the files that are in the repository, or will be with the next commit."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = [
        f"{relative(path)}:{number}: {match.group()}"
        for path in repository_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if (match := FOREIGN_ADDRESS.search(line))
    ]
    assert found == []


def test_an_address_would_be_seen() -> None:
    for text in ("/wor" + "k/main", "https://pyp" + "i.org/simple", "http://repo.mave" + "n.org"):
        assert FOREIGN_ADDRESS.search(f"see {text} there")
    assert not FOREIGN_ADDRESS.search("https://www.apache.org/licenses and network/path")


# The lock file

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked() -> dict[str, tuple[Requirement, int]]:
    """Return what the lock file pins, and by how many hashes, by canonical name."""
    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ")
    lines = [line.partition(" #")[0] for line in text.splitlines() if not line.startswith("#")]
    pins: dict[str, tuple[Requirement, int]] = {}
    for line in filter(str.strip, lines):
        requirement = Requirement(line.partition("--hash")[0].strip())
        pins[canonicalize_name(requirement.name)] = (requirement, len(HASH.findall(line)))
    return pins


def asked_for() -> Iterator[Requirement]:
    """Yield every direct requirement: product, extras, development and build."""
    project = PYPROJECT["project"]
    for text in itertools.chain(
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
        PYPROJECT["build-system"]["requires"],
    ):
        yield Requirement(text)


def needed_by(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed requirement asks for itself, here and with these extras."""
    for text in importlib.metadata.requires(requirement.name) or []:
        inner = Requirement(text)
        extras = requirement.extras or {""}
        if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
            yield inner


def test_the_lock_file_pins_everything_by_version_and_hash() -> None:
    pins = locked()
    assert len(pins) > 40
    for requirement, hashes in pins.values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes > 0, requirement


def test_the_lock_file_covers_what_the_project_asks_for() -> None:
    pins = locked()
    for requirement in asked_for():
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, requirement
        version = str(pin[0].specifier).removeprefix("==")
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_the_lock_file_covers_what_those_need_in_turn() -> None:
    pins = locked()
    queue, seen = list(asked_for()), set()
    while queue:
        requirement = queue.pop()
        assert canonicalize_name(requirement.name) in pins, requirement
        if str(requirement) not in seen:
            seen.add(str(requirement))
            queue.extend(needed_by(requirement))
