"""What columns choose is what the reference chooses among the same candidates."""

from relaymesh.market.columns import MarketColumns
from relaymesh.market.selection import select
from tests.market.builders import MODEL, NOW, buyer_request, candidate


def test_columns_choose_what_the_reference_chooses() -> None:
    among = [candidate(number, minimum_msat=1_000 * number) for number in (1, 2, 3)]
    by_id = {one.offer.event.id: (one.offer, one.status) for one in among}
    columns = MarketColumns(MODEL, "chat", by_id.__getitem__)
    for one in among:
        columns.place(one.offer, one.status)
    columns.remove(among[0].offer.event.id)
    chosen = columns.select(buyer_request(), seed=b"seed", count=2, now=NOW)
    assert chosen == select(among[1:], buyer_request(), seed=b"seed", count=2, now=NOW)
    assert len(columns) == 2
