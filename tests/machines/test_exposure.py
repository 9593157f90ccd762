"""Nobody loses more than the quote states: whatever is said, lost or repeated, and in whatever order it comes.

Both job machines are joined by a network that drops, repeats and breaks, and by wallets that answer whatever they like
whenever they like. One of the two may be a liar: what it says is changed on its way. After every single step the loss
of each honest side is reckoned from what truly left the node and what was truly paid.
"""

import os
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaymesh.protocol.fields import Order
from relaymesh.units import AmountMsat
from tests.machines.bargain import Bargain, agree
from tests.machines.pair import order, price_row

ORDERS: Final[tuple[Order, ...]] = ("prepay", "sealed", "postpay")
MOST_STEPS: Final = 120
EXAMPLES: Final = {"fuzz": 2_000}
"""By Hypothesis profile; `make test` plays fewer."""


def play(form: Order, liar: str, seed: int) -> Bargain:
    """Let things happen until nothing must any more, and reckon after each of them."""
    choose = Random(seed).randrange
    unit = "token" if liar == "node" and choose(3) == 0 else "byte"
    minimum, rate = AmountMsat((0, 10, 300)[choose(3)]), AmountMsat((0, 500)[choose(2)])
    row = price_row(unit, minimum_msat=minimum, input_msat=rate)
    wanted = order(output_units=(16, 64, 90)[choose(3)])
    tranche_units = (None, 16, 32)[choose(3)]
    agreed = agree(row, form, tranche_units, wanted.output_units, len(wanted.body.encode()))
    bargain = Bargain(agreed, wanted, liar, choose)
    bargain.start()
    for _ in range(MOST_STEPS):
        steps = bargain.possible_steps()
        if steps and choose(6):
            steps[choose(len(steps))]()
        elif choose(3):
            mischief = bargain.mischief()
            mischief[choose(len(mischief))]()
        bargain.check_losses()
        if bargain.outcome is not None and bargain.closed is not None:
            break
    bargain.end()
    bargain.check_losses()
    return bargain


@pytest.mark.parametrize("liar", ["nobody", "client", "node"])
@pytest.mark.parametrize("form", ORDERS)
@settings(max_examples=EXAMPLES.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 40))
@given(seed=st.integers(0, 2**64 - 1))  # from which everything follows: a drawn choice a step takes ten times as long
def test_nobody_loses_more_than_the_quote_states_and_every_account_is_true(form: Order, liar: str, seed: int) -> None:
    play(form, liar, seed).check_end()
