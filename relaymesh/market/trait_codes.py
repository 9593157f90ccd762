"""Trait codes: a number for every combination of traits among some prices, so that each is compared once a request."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from relaymesh.market.eligibility import fits
from relaymesh.market.facts import Traits
from relaymesh.market.request import BuyerRequest

_MOST_REMEMBERED = 16


class TraitCodes:
    """Numbers for traits; those of traits that nobody has any more are given again."""

    def __init__(self) -> None:
        self._codes: dict[Traits, int] = {}
        self._traits: list[Traits | None] = []
        self._uses: list[int] = []
        self._free: list[int] = []
        self._remembered: dict[tuple[Any, ...], NDArray[np.bool_]] = {}

    def take(self, traits: Traits) -> tuple[Traits, int]:
        """One more price has these traits: the one value that stands for all that equal it, and its number."""
        code = self._codes.get(traits)
        if code is None:
            code = self._add(traits)
        self._uses[code] += 1
        known = self._traits[code]
        return traits if known is None else known, code

    def give_back(self, traits: Traits) -> None:
        """One price less has these traits."""
        code = self._codes[traits]
        self._uses[code] -= 1
        if not self._uses[code]:
            del self._codes[traits]
            self._traits[code] = None
            self._free.append(code)

    def fitting(self, request: BuyerRequest) -> NDArray[np.bool_]:
        """For every number whether its traits fit the request."""
        asked = (
            request.model,
            request.job_type,
            request.region,
            request.quantizations,
            request.data_collection,
            request.capabilities,
            request.forms,
            request.maximum_pow_bits,
        )
        found = self._remembered.get(asked)
        if found is None:
            found = np.array([each is not None and fits(each, request) for each in self._traits] or [False], bool)
            if len(self._remembered) >= _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[asked] = found
        return found

    def _add(self, traits: Traits) -> int:
        self._remembered.clear()
        if self._free:
            code = self._free.pop()
            self._traits[code] = traits
        else:
            code = len(self._traits)
            self._traits.append(traits)
            self._uses.append(0)
        self._codes[traits] = code
        return code
