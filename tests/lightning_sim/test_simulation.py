"""Payments on the simulated network: routed, held, failed, stopped anywhere, and conserved to the msat."""

import hashlib
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from relaymesh.adapters.invoices import read_invoice
from relaymesh.errors import UsageError
from relaymesh.lightning_sim.answers import Waiting
from relaymesh.lightning_sim.plan import NetworkPlan, WalletPlan
from relaymesh.lightning_sim.records import AttemptRecord, InvoiceRecord
from tests.lightning_sim.simulated import LATENCY_MS, START_MS, HandDriven, alice_and_bob


def _begin(network: HandDriven, invoice: dict[str, object], payer: str = "alice", **more: object) -> Waiting:
    found = network.ask(payer, "xpay", invstring=invoice["bolt11"], **more)
    assert isinstance(found, Waiting)
    return found


def test_a_payment_between_wallets_goes_through_the_hub_and_pays_its_fee() -> None:
    network = alice_and_bob(fee_base_msat=3, fee_proportional_millionths=20)
    before = network.balances_msat()
    paid = network.call("alice", "xpay", invstring=network.invoice("bob")["bolt11"])
    assert (paid["amount_msat"], paid["amount_sent_msat"]) == (100_000, 100_005)
    assert network.now_ms == START_MS + 2 * LATENCY_MS
    after = network.balances_msat()
    assert {name: after[name] - before[name] for name in after} == {"alice": -100_005, "bob": 100_000, "hub": 5}
    assert network.call("hub", "getinfo")["fees_collected_msat"] == 5


@pytest.mark.parametrize(("payer", "payee"), [("alice", "hub"), ("hub", "bob")])
def test_a_payment_over_one_channel_costs_no_fee_and_half_the_time(payer: str, payee: str) -> None:
    network = alice_and_bob()
    paid = network.call(payer, "xpay", invstring=network.invoice(payee)["bolt11"])
    assert paid["amount_sent_msat"] == 100_000
    assert network.now_ms == START_MS + LATENCY_MS


def test_the_preimage_hashes_and_the_invoice_is_really_signed() -> None:
    network = alice_and_bob()
    invoice = network.invoice("bob", preimage="07" * 32)
    decoded = read_invoice(invoice["bolt11"])
    assert decoded.payee == network.call("bob", "getinfo")["id"]
    assert decoded.network == "bcrt"
    assert decoded.payment_hash == hashlib.sha256(b"\7" * 32).hexdigest() == invoice["payment_hash"]
    assert network.call("alice", "xpay", invstring=invoice["bolt11"])["payment_preimage"] == "07" * 32


def test_the_payee_sees_the_money_before_the_payer_knows() -> None:
    network = alice_and_bob()
    payment = _begin(network, network.invoice("bob"))
    network.call("bob", "waitinvoice", label="one")
    assert payment.check(network.now_ms) is None
    assert network.finish(payment)["amount_msat"] == 100_000


def test_what_is_on_its_way_is_locked_and_not_yet_gone() -> None:
    network = alice_and_bob()
    network.simulation.faults.hold_ms["bob"] = None
    payment = _begin(network, network.invoice("bob", 9_000_000))
    network.pass_time(1_000)
    (channel,) = network.call("alice", "listpeerchannels")["channels"]
    assert channel["to_us_msat"] == 10_000_000
    assert channel["spendable_msat"] == 10_000_000 - 9_000_091
    second = network.invoice("bob", 2_000_000, "two")
    assert (
        "auto.localchans says max is 999909msat" in network.fails("alice", "xpay", invstring=second["bolt11"]).message
    )
    network.simulation.release("bob", network.now_ms)
    network.finish(payment)
    assert network.balances_msat()["alice"] == 10_000_000 - 9_000_091


def test_a_payment_held_for_a_time_is_taken_afterwards() -> None:
    network = alice_and_bob(hold_ms=(("bob", 5_000),))
    network.finish(_begin(network, network.invoice("bob")))
    assert network.now_ms == START_MS + 2 * LATENCY_MS + 5_000


def test_a_payment_held_beyond_the_invoices_expiry_is_refused() -> None:
    network = alice_and_bob(hold_ms=(("bob", 5_000),))
    invoice = network.invoice("bob", expiry=3)
    assert network.fails("alice", "xpay", invstring=invoice["bolt11"]).code == 203
    assert network.balances_msat()["bob"] == 0


@pytest.mark.parametrize(
    ("node", "failure", "code"),
    [
        ("bob", "temporary_node_failure", 209),
        ("bob", "incorrect_or_unknown_payment_details", 203),
        ("hub", "temporary_channel_failure", 209),
    ],
)
def test_a_hop_fails_a_payment_once_when_told_to(node: str, failure: str, code: int) -> None:
    network = alice_and_bob()
    network.simulation.faults.refuse_next[node] = deque([failure])
    invoice, before = network.invoice("bob"), network.balances_msat()
    assert network.fails("alice", "xpay", invstring=invoice["bolt11"]).code == code
    assert network.balances_msat() == before
    network.call("alice", "askrene-age", layer="xpay", cutoff=2**53)
    network.call("alice", "xpay", invstring=invoice["bolt11"])
    assert [row["status"] for row in network.call("alice", "listpays")["pays"]] == ["pending", "complete"]
    network.pass_time(1_000)
    assert [row["status"] for row in network.call("alice", "listpays")["pays"]] == ["failed", "complete"]


def test_a_failure_is_remembered_for_an_hour_unless_told_to_forget() -> None:
    network = alice_and_bob()
    network.simulation.take_down("bob")
    invoice = network.invoice("bob")
    assert network.fails("alice", "xpay", invstring=invoice["bolt11"]).code == 209
    network.simulation.bring_up("bob", network.now_ms)
    assert "layer xpay says max is 99999msat" in network.fails("alice", "xpay", invstring=invoice["bolt11"]).message
    small = network.invoice("bob", 50_000, "small")
    network.call("alice", "xpay", invstring=small["bolt11"])
    network.pass_time(3_601_000)
    network.call("alice", "xpay", invstring=invoice["bolt11"])


@pytest.mark.parametrize("passed_ms", range(0, 2 * LATENCY_MS, 25))
@pytest.mark.parametrize("name", ["alice", "bob", "hub"])
def test_a_node_that_goes_down_in_mid_payment_delays_it_and_loses_nothing(name: str, passed_ms: int) -> None:
    network = alice_and_bob()
    payment = _begin(network, network.invoice("bob"))
    network.pass_time(passed_ms)
    network.simulation.take_down(name)
    network.pass_time(600_000)
    network.simulation.bring_up(name, network.now_ms)
    code = network.outcome(payment)
    assert code in ({None, 209} if name == "bob" else {None})
    assert network.balances_msat()["bob"] == (100_000 if code is None else 0)
    assert not network.simulation.ledger.pending


def test_an_amount_may_be_left_to_the_payer() -> None:
    network = alice_and_bob()
    invoice = network.invoice("bob", "any")
    assert network.call("alice", "xpay", invstring=invoice["bolt11"], amount_msat=7)["amount_msat"] == 7
    assert network.call("bob", "listinvoices", label="one")["invoices"][0]["amount_received_msat"] == 7


def test_paying_oneself_succeeds_and_moves_nothing() -> None:
    network = alice_and_bob()
    before = network.balances_msat()
    network.call("alice", "xpay", invstring=network.invoice("alice")["bolt11"])
    assert network.balances_msat() == before


def test_without_a_limit_a_fee_may_be_one_percent() -> None:
    network = alice_and_bob(fee_base_msat=60_000, fee_proportional_millionths=0)
    assert network.fails("alice", "xpay", invstring=network.invoice("bob", 5_000_000)["bolt11"]).code == 206
    network.call("alice", "xpay", invstring=network.invoice("bob", 6_000_000, "two")["bolt11"])


@pytest.mark.parametrize(
    "plan",
    [
        NetworkPlan((WalletPlan("hub", 1),)),
        NetworkPlan((WalletPlan("a/b", 1),)),
        NetworkPlan((WalletPlan("", 1),)),
        NetworkPlan((WalletPlan("a", 1), WalletPlan("a", 2))),
        NetworkPlan((WalletPlan("a", -1),)),
        NetworkPlan((WalletPlan("a", 2**53),)),
        NetworkPlan((WalletPlan("a", 1),), fee_base_msat=-1),
        NetworkPlan((WalletPlan("a", 1),), hold_ms=(("b", 1),)),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: NetworkPlan) -> None:
    with pytest.raises(UsageError):
        plan.check()


def test_an_invoice_is_paid_once_whoever_pays() -> None:
    network = HandDriven(WalletPlan("alice", 1_000_000), WalletPlan("bob", 0), WalletPlan("carol", 1_000_000))
    invoice = network.invoice("bob")
    payments = [_begin(network, invoice, payer) for payer in ("alice", "carol")]
    assert sorted([str(network.outcome(payment)) for payment in payments]) == ["203", "None"]
    assert network.balances_msat()["bob"] == 100_000
    assert network.fails("hub", "xpay", invstring=invoice["bolt11"]).code == 203


def test_a_label_of_more_than_128_bytes_is_refused_in_the_words_of_a_real_nodes_source() -> None:
    label = 129 * "x"
    refused = alice_and_bob().fails("bob", "invoice", amount_msat=1, label=label, description="d")
    assert (refused.code, refused.message) == (-32602, f"Label '{label}' over 128 bytes")


def test_a_preimage_in_use_is_noticed_before_a_label_in_use_as_a_real_nodes_source_has_it() -> None:
    network = alice_and_bob()
    network.invoice("bob", preimage="07" * 32)
    refused = network.fails("bob", "invoice", amount_msat=1, label="one", description="d", preimage="07" * 32)
    assert (refused.code, refused.message) == (901, "preimage already used")


def test_a_payer_pays_once_however_often_it_is_told_to() -> None:
    network = alice_and_bob()
    invoice = network.invoice("bob")
    payment = _begin(network, invoice)
    assert network.fails("alice", "xpay", invstring=invoice["bolt11"]).code == -3
    paid = network.finish(payment)
    assert network.fails("alice", "xpay", invstring=invoice["bolt11"]).code == 219
    again = network.call("alice", "pay", bolt11=invoice["bolt11"])
    assert again["payment_preimage"] == paid["payment_preimage"]
    assert network.balances_msat()["bob"] == 100_000


NAMES = ("alice", "bob", "carol", "hub")
DISTURBANCES = ("hold", "take down", "temporary_node_failure", "temporary_channel_failure")


@dataclass(frozen=True)
class Act:
    """Something that happens; each kind of act takes what it needs from it."""

    kind: str
    who: str
    whom: str
    amount_msat: int
    milliseconds: int
    disturbance: str
    method: str


ACTS = st.builds(
    Act,
    kind=st.sampled_from([*["trade"] * 8, *["pay again"] * 4, *["pass time"] * 3, *["repair"] * 2, "disturb"]),
    who=st.sampled_from(NAMES),
    whom=st.sampled_from(NAMES),
    amount_msat=st.sampled_from([1, 777, 9_000, 30_001, 200_000]),
    milliseconds=st.sampled_from([0, 1, 49, 50, 120, 300, 1_500]),
    disturbance=st.sampled_from(DISTURBANCES),
    method=st.sampled_from(["xpay", "pay"]),
)


class AnyTraffic:
    """Three wallets that trade while things go wrong."""

    def __init__(self) -> None:
        wallets = (
            WalletPlan("alice", 300_000, 200_000),
            WalletPlan("bob", 0, 250_000),
            WalletPlan("carol", 60_000, 9_000),
        )
        self.network = HandDriven(*wallets)
        self.before = self.network.balances_msat()
        self.invoices: list[str] = []

    def do(self, act: Act) -> None:
        """Let it happen."""
        if act.kind == "trade":
            label = f"label {len(self.invoices)}"
            invoice = self.network.invoice(act.whom, act.amount_msat, label, expiry=act.amount_msat % 3 * 300 + 1)
            self.invoices.append(invoice["bolt11"])
        if act.kind in ("trade", "pay again") and self.invoices:
            named = {"invstring" if act.method == "xpay" else "bolt11": self.invoices[-1 - act.amount_msat % 2 :][0]}
            assert self.network.refusal(act.who, act.method, **named) in {None, -3, 203, 205, 206, 207, 219}
        if act.kind == "disturb":
            self.disturb(act.who, act.disturbance)
        if act.kind == "repair":
            self.repair(act.who)
        self.network.pass_time(act.milliseconds)

    def disturb(self, name: str, kind: str) -> None:
        """Something goes wrong at this node."""
        faults = self.network.simulation.faults
        if kind == "hold":
            faults.hold_ms[name] = None
        elif kind == "take down":
            self.network.simulation.take_down(name)
        else:
            faults.refuse_next.setdefault(name, deque()).append(kind)

    def repair(self, name: str) -> None:
        """Nothing is wrong at this node any more."""
        self.network.simulation.release(name, self.network.now_ms)
        self.network.simulation.bring_up(name, self.network.now_ms)

    def check(self) -> None:
        """What holds at any time: money is conserved, nobody owes, what was taken was paid once."""
        ledger = self.network.simulation.ledger
        assert sum(self.network.balances_msat().values()) == sum(self.before.values())
        for channel in ledger.channels.values():
            assert 0 <= ledger.spendable_msat(channel, by_hub=False) <= channel.wallet_msat
            assert 0 <= ledger.spendable_msat(channel, by_hub=True) <= channel.capacity_msat - channel.wallet_msat
        taken = [attempt.payment_hash for attempt in self._attempts() if attempt.preimage is not None]
        assert sorted(taken) == sorted(invoice.payment_hash for invoice in self._invoices() if invoice.status == "paid")

    def check_at_rest(self) -> None:
        """What holds when nothing is on its way: every balance is explained by what was paid."""
        for name in self.before:
            self.repair(name)
        self.network.pass_time(10_000)
        self.check()
        assert not self.network.simulation.ledger.pending
        expected = dict(self.before)
        for invoice in self._invoices():
            expected[invoice.payee] += invoice.received_msat or 0
        for attempt in self._attempts():
            if attempt.status == "complete":
                expected[attempt.payer] -= attempt.sent_msat
                expected["hub"] += attempt.sent_msat - attempt.amount_msat
        assert self.network.balances_msat() == expected

    def _attempts(self) -> list[AttemptRecord]:
        return [attempt for of_node in self.network.simulation.ledger.attempts.values() for attempt in of_node.values()]

    def _invoices(self) -> list[InvoiceRecord]:
        return [invoice for of_node in self.network.simulation.ledger.invoices.values() for invoice in of_node.values()]


@settings(max_examples=8, phases=(Phase.explicit, Phase.generate))  # each act signs: shrinking would take minutes
@given(st.lists(ACTS, min_size=25, max_size=40))
def test_whatever_goes_wrong_money_is_only_moved_and_each_invoice_paid_once(acts: list[Act]) -> None:
    traffic = AnyTraffic()
    for act in acts:
        traffic.do(act)
        traffic.check()
    traffic.check_at_rest()
