"""How a command runs: what it was asked for on standard output, everything else beside it."""

from collections.abc import Iterator

import pytest
import structlog

from relaymesh.cli.running import run


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_what_is_logged_does_not_mix_with_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    async def command() -> None:
        structlog.get_logger().warning("heard on the way")
        print('{"asked": "for"}')

    run(command)
    printed = capsys.readouterr()
    assert printed.out == '{"asked": "for"}\n'
    assert "heard on the way" in printed.err
