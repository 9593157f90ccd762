"""The relay benchmark is the one that others are measured with: brought in unchanged, held by its checksum."""

import hashlib
from pathlib import Path

SHARED_BENCHMARK = Path(__file__).parents[2] / "bench" / "relay_bench.py"
SHA_256 = "b958f7ba07b7e41d802fe696fd472724bd62e9878c372d68b9243cfd3638cc97"


def test_the_shared_relay_benchmark_is_unchanged() -> None:
    assert hashlib.sha256(SHARED_BENCHMARK.read_bytes()).hexdigest() == SHA_256
