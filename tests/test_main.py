"""The command's ends: codes, one line on stderr, never a traceback."""

import argparse
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import pytest

from tailrace.cli.main import COMMANDS, Command, main, parse
from tailrace.schemas.errors import TailraceError

pytestmark = pytest.mark.usefixtures("command_defaults")

Run = Callable[[argparse.Namespace], int]


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], int]:
    """Run the command ``act``, which does what the test says."""

    def run_it(run: Run) -> int:
        module = ModuleType("tailrace_act")
        module.add_arguments = lambda parser: parser.add_argument("--n")  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tailrace_act", module)
        monkeypatch.setitem(COMMANDS, "act", Command("tailrace_act", "act"))
        return main(["act", "--n", "1"])

    return run_it


def raising(error: BaseException) -> Run:
    def run(_: argparse.Namespace) -> NoReturn:
        raise error

    return run


def test_code_of_the_subcommand_is_the_exit_code(act: Callable[[Run], int]) -> None:
    assert act(lambda arguments: int(arguments.n) - 1) == 0
    assert act(lambda arguments: int(arguments.n)) == 1


def test_failure_is_one_line(act: Callable[[Run], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert act(raising(TailraceError("first\n  second"))) == 1
    assert capsys.readouterr() == ("", "tailrace: first second\n")


def test_interruption_is_130_and_silent(
    act: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert act(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_bug_is_not_hidden(act: Callable[[Run], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        act(raising(ZeroDivisionError()))


def test_reader_that_leaves_early_is_no_failure() -> None:
    code = (
        "import os, sys\n"
        "from tailrace.cli.main import COMMANDS, Command, main\n"
        "import types\n"
        "module = sys.modules['act'] = types.ModuleType('act')\n"
        "module.add_arguments = lambda parser: None\n"
        "module.run = lambda arguments: print('x' * 1_000_000) or 0\n"
        "COMMANDS['act'] = Command('act', 'act')\n"
        "sys.exit(main(['act']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("argv", [[], ["no-such-command"], ["kafka"], ["--no-such-option"]])
def test_bad_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tailrace")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == importlib.metadata.version("tailrace") + "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([name, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[name].summary in capsys.readouterr().out


def test_subcommand_without_its_packages_says_which_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "act", Command("not_installed.inner", "act", extra="edge"))
    assert main(["act"]) == 1
    expected = "tailrace: `tailrace act` needs the package not_installed: "
    assert capsys.readouterr().err == f"{expected}pip install 'tailrace[edge]'\n"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("edge", "aiohttp"),
        ("services", "aiohttp"),
        ("services", "langgraph"),
        ("demo", "aiohttp"),
        ("demo", "langchain_core"),
    ],
)
def test_what_a_subcommand_says_to_install_holds_what_it_misses(name: str, module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; "
        f"from tailrace.cli.main import main; sys.exit(main([{name!r}]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    named = re.search(r"needs the package (\w+): pip install 'tailrace\[([\w,]+)\]'$", ran.stderr)
    assert (ran.returncode, named and named[1]) == (1, module)
    assert named is not None
    extras = named[2].split(",")
    requires = importlib.metadata.requires("tailrace") or []
    package = module.replace("_", "-")
    owners = [extra for extra in extras for line in requires if package in line and extra in line]
    assert owners != []


def test_module_of_our_own_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "act", Command("tailrace.nowhere", "act", extra="edge"))
    with pytest.raises(ModuleNotFoundError):
        main(["act"])


def test_only_the_subcommand_asked_for_is_imported() -> None:
    code = (
        "import sys; from tailrace.cli.main import parse; parse(['topics', 'create']); "
        "sys.exit(any(name.startswith(('aiohttp', 'tailrace.edge')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
