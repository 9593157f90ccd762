"""What all tests share: the event loop they run on and how Hypothesis searches."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",  # the same examples on every run and machine, so that `make test` never fails by chance
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",  # `make fuzz`: new examples on every run, many of them
    database=None,
    deadline=None,
    max_examples=5_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure() -> None:
    """Take interrupts even as a job in the background: it inherits that they are ignored, and would pass that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, which is what production runs on."""
    return "asyncio"
