"""The demonstration, whole: six processes, two purchases, every figure of its report."""

import json
from pathlib import Path

import pytest

from tests.cli.processes import Home, family

pytestmark = pytest.mark.timeout(120)

JOB_FIELDS = {
    "node",
    "model",
    "job_type",
    "settlement",
    "quoted_max_msat",
    "charged_msat",
    "paid_msat",
    "units",
    "time_to_first_output_ms",
    "total_ms",
    "metering_id",
    "receipt_id",
    "verified",
}


def test_the_demonstration_buys_twice_and_accounts_for_every_msat(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ran = home.run("demo", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    chat, embedding = report["jobs"]
    assert (chat["job_type"], embedding["job_type"]) == ("chat", "embedding")
    for job in report["jobs"]:
        assert job.keys() >= JOB_FIELDS
        assert job["verified"] is True
        assert 0 < job["charged_msat"] == job["paid_msat"] <= job["quoted_max_msat"]
        assert job["units"]["output_bytes"] > 0
        assert job["settlement"]["sentence"]
        assert 0 < job["settlement"]["exposure_buyer_msat"] <= job["quoted_max_msat"]
    assert [job["settlement"]["form"] for job in report["jobs"]] == ["prepay", "sealed"]
    before, after = report["balances_before_msat"], report["balances_after_msat"]
    assert before.keys() == after.keys() == {"buyer", "amber", "birch", "cedar"}
    assert report["conserved"] is True
    assert sum(before.values()) - sum(after.values()) == report["fees_msat"] > 0
    assert len({offer["node"] for offer in report["offers"]}) == 3
    assert {"38770", "38771", "28770", "28771", "28772", "28773"} <= report["events_by_kind"].keys()
    assert any("max_msat" in quote for quote in report["quotes"])
    assert ran.stderr == ""
    assert family(str(tmp_path)) == [], "a process was left behind"


def test_the_demonstration_tells_its_story_to_a_person(tmp_path: Path) -> None:
    ran = Home(tmp_path).run("demo")
    assert ran.returncode == 0, ran.stderr
    for word in ("amber", "birch", "cedar", "quoted", "metered", "paid", "signed by both", "nothing lost"):
        assert word in ran.stdout
