"""A manifest from a file written by hand: read or refused in one sentence, signed, published, seen."""

import json
from pathlib import Path

import pytest

from relaymesh.cli.manifest import read_manifest_file
from relaymesh.errors import UsageError
from relaymesh.nostr.event import parse_event
from relaymesh.nostr.keys import verify
from relaymesh.protocol.manifest import read_manifest
from relaymesh.units import Timestamp
from tests.cli.processes import Home

NOW = Timestamp(1_800_000_000)
FILE = """
label = "main"
valid_days = 2

[machine]
cpu_threads = 16
memory_gib = 64
disk_free_gib = 500
gpu_memory_gib = 24
network_mbit = 940

[[benchmarks]]
model = "tiny"
prefill_tokens_per_1000s = 900000
decode_tokens_per_1000s = 42000

[[relays]]
url = "wss://relay.example"
"""


def written(folder: Path, text: str = FILE) -> Path:
    path = folder / "manifest.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_sizes_become_bands_and_what_is_left_out_is_filled_in(tmp_path: Path) -> None:
    label, manifest = read_manifest_file(written(tmp_path), NOW)
    assert (label, manifest.role, manifest.seq, manifest.valid_until) == ("main", "node", NOW, NOW + 2 * 86_400)
    assert manifest.bands.to_fields() == {"cpu": 4, "memory": 6, "disk": 8, "gpu": 4, "network": 9}
    assert manifest.benchmarks[0].measured_at == NOW
    assert manifest.relays[0].round_trip_ms is None
    without = FILE.replace("gpu_memory_gib = 24", "")
    assert read_manifest_file(written(tmp_path, without), NOW)[1].bands.gpu is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('label = "main"', 'label = "Not A Label"', "label"),
        ('label = "main"', "label = 5", "label"),
        ("valid_days = 2", "valid_days = 0", "valid_days"),
        ("valid_days = 2", "days = 2", "knows no `days`"),
        ("cpu_threads = 16", "", "machine.cpu_threads"),
        ("cpu_threads = 16", "cpu_threads = 1.5", "machine.cpu_threads"),
        ("cpu_threads = 16", "cpu_threads = -1", "machine.cpu_threads"),
        ("cpu_threads", "cpus", "knows no cpus"),
        ("[machine]", "[[machine]]", "table"),
        ("decode_tokens_per_1000s = 42000", "decode_tokens_per_1000s = 42.5", "integers"),
        ("decode_tokens_per_1000s = 42000", "", "decode_tokens_per_1000s"),
        ("[[benchmarks]]", "[benchmarks]", "[[benchmarks]]"),
        ("wss://relay.example", "https://relay.example", "relays.0.url"),
        ("[machine]", "[machine", "TOML"),
        ("prefill_tokens_per_1000s = 900000", "prefill_tokens_per_1000s = 2027-01-01", "describes no manifest"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_a_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in FILE
    with pytest.raises(UsageError) as raised:
        read_manifest_file(written(tmp_path, FILE.replace(old, new, 1)), NOW)
    assert said in str(raised.value)


def test_a_manifest_is_published_weighed_and_its_node_asserted_about(short_path: Path) -> None:
    home = Home(short_path, {"RELAYMESH_CLIENT_DISCOVERY_SECONDS": "5"})
    written(short_path)
    with home.serve("relay", "serve", "--port", "0", "--database", str(short_path / "r.sqlite3"), "--json") as relay:
        home.settings["RELAYMESH_NETWORK_RELAYS"] = relay.facts["relay_url"]
        made = home.run("manifest", "manifest.toml", "--publish")
        assert made.returncode == 0, made.stderr
        event = verify(parse_event(json.loads(made.stdout)))
        assert read_manifest(event).manifest.find_benchmark("tiny") is not None

        shown = home.run("reputation", "show", event.public_key, "--json")
        assert shown.returncode == 0, shown.stderr
        standing = json.loads(shown.stdout)["standing"]
        assert (standing["output_units_per_1000s"], standing["is_on_probation"]) == (42_000, True)
        assert "speed as its manifest claims" in standing["reasons"]

        published = home.run("reputation", "show", event.public_key, "--publish")
        assert published.returncode == 0, published.stderr
        assert published.stderr.count("published ") == 2
        assert "42.0 tokens a second" in published.stdout and "nobody has seen it work" in published.stdout


def test_what_nobody_can_be_is_refused(short_path: Path) -> None:
    home = Home(short_path, {"RELAYMESH_NETWORK_RELAYS": "ws://127.0.0.1:9"})
    for arguments, said in (
        (("manifest", "absent.toml"), "absent.toml"),
        (("manifest", str(written(short_path)), "--publish"), "no relay took the event"),
        (("reputation", "show", "npub1nobody"), "npub"),
    ):
        ran = home.run(*arguments)
        assert ran.returncode == 1 and said in ran.stderr and "Traceback" not in ran.stderr, arguments
