from pathlib import Path

import pytest

from tailrace.cli.children import child, ready
from tailrace.cli.errors import ChildError
from tailrace.cli.ports import free_ports


async def test_child_is_ended_with_its_block(tmp_path: Path) -> None:
    [port] = free_ports(1)
    log = tmp_path / "log"
    async with child(["edge", "--port", str(port)], env={}, log=log) as process:
        await ready(process, f"http://127.0.0.1:{port}/healthz", log)
        assert process.returncode is None
    assert process.returncode == 0


async def test_child_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with child(["edge", "--host", "0.0.0.0"], env={}, log=log) as process:
        with pytest.raises(ChildError, match=r"0\.0\.0\.0 is not loopback"):
            await ready(process, "http://127.0.0.1:1/healthz", log)
    assert process.returncode == 1
