"""A job's writes to the ledger, in their order, also where it does not wait for one."""

import anyio

from relaymesh.machines.records import LedgerRecord, Store
from relaymesh.ports.ledger import Ledger


class OrderedWrites:
    """Writes what a machine wants stored; what it does not wait for is written beside it, and before what follows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ahead: anyio.Event | None = None

    def is_ahead(self, store: Store) -> bool:
        """Whether this is to be written beside the machine, by `write_ahead`, started at once."""
        if store.is_awaited or self._ahead is not None:
            return False
        self._ahead = anyio.Event()
        return True

    async def write_ahead(self, records: tuple[LedgerRecord, ...]) -> None:
        """Write what nothing but later writes waits for; LedgerError ends whoever's task group this runs in."""
        assert self._ahead is not None
        await self._ledger.write(records)
        self._ahead.set()
        self._ahead = None

    async def write(self, records: tuple[LedgerRecord, ...]) -> None:
        """Write these records, durably, after what was wanted before; LedgerError if that fails."""
        if self._ahead is not None:
            await self._ahead.wait()
        await self._ledger.write(records)
