import logging
import threading

import pytest

from tailrace.logs import quiet_driver

DRIVER = logging.getLogger("aiokafka.client")


def test_repeated_lines_of_this_thread_are_held_back(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_driver():
        for port in range(50):
            DRIVER.error("Unable connect to %s", port)
        DRIVER.error("another line")
    assert [record.getMessage() for record in caplog.records] == [
        "Unable connect to 0",
        "another line",
    ]


def test_other_threads_of_the_host_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    def host() -> None:
        for _ in range(3):
            DRIVER.error("host")

    with quiet_driver():
        thread = threading.Thread(target=host)
        thread.start()
        thread.join()
    assert len(caplog.records) == 3


def test_nothing_stays_installed(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_driver():
        DRIVER.error("line")
    DRIVER.error("line")
    assert len(caplog.records) == 2
    assert not DRIVER.filters
