"""Knobs of splitting cells into those learnt from and those held out."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OptionError, OutOfRangeError
from geneformer.options._check import check_choice, check_range

METHODS = ("auto", "random", "stratified", "group", "ids", "balanced")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """Which cells are learnt from, which choose the best step, and which are only tested on."""

    method: Literal["auto", "random", "stratified", "group", "ids", "balanced"] = "auto"
    """Draw cells at random; with the shares of the classes kept; whole groups, such as donors; take the ids listed; or
    draw ids until attributes are balanced. "auto" is "group" where groups are given, else "stratified" where every
    class has enough cells, else "random"."""

    valid: float = 0.1
    """Share of the cells that choose the best step and the temperature; of the ids with "balanced"."""

    test: float = 0.1
    """Share of the cells that are only tested on; of the ids with "balanced". The rest is learnt from."""

    train_ids: tuple[str, ...] = ()
    """Ids, such as donors, that are learnt from. With method "ids"; ids in no list are left out."""

    valid_ids: tuple[str, ...] = ()
    """Ids that choose the best step. With method "ids"."""

    test_ids: tuple[str, ...] = ()
    """Ids that are only tested on. With method "ids"."""

    balance: tuple[str, ...] = ()
    """Attributes, such as age or sex, that the parts must not differ in. With method "balanced"."""

    max_trials: int = 100
    """Draws of a balanced split; the best one is taken if none passes."""

    p_threshold: float = 0.1
    """A balanced split is accepted when the p-value of every attribute reaches this."""

    allow_leakage: bool = False
    """Accept a split with cells of one group on two sides. They resemble each other, and scores come out too high."""

    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        for name in ("valid", "test"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        if self.valid + self.test > 1 - 1e-9:  # 0.3 + 0.7 need not make 1 in floating point
            msg = (
                f"valid={self.valid} and test={self.test} leave no cells to learn from. They are shares of the cells "
                "and must sum to less than 1."
            )
            raise OutOfRangeError(msg)
        check_range("max_trials", self.max_trials, low=1)
        check_range("p_threshold", self.p_threshold, low=0.0, high=1.0)
        for name in ("train_ids", "valid_ids", "test_ids", "balance"):
            self._as_texts(name)
        self._check_lists()

    def _as_texts(self, name: str) -> None:
        """Any list as a tuple of texts; a text alone would be taken apart into its letters."""
        value = getattr(self, name)
        if isinstance(value, str):
            msg = f"{name}={value!r} is one text. It takes a list: {name}=[{value!r}]."
            raise OptionError(msg)
        object.__setattr__(self, name, tuple(str(entry).strip() for entry in value))

    def _check_lists(self) -> None:
        lists = {name: getattr(self, name) for name in ("train_ids", "valid_ids", "test_ids")}
        for wanted, given in (("ids", [name for name in lists if lists[name]]), ("balanced", ["balance"])):
            if self.method != wanted and any(getattr(self, name) for name in given):
                msg = f'{given[0]} is given, but method="{self.method}". Pass method="{wanted}", or leave it out.'
                raise OptionError(msg)
        if self.method == "ids" and not self.train_ids:
            msg = 'method="ids" without train_ids. List the ids that are to be learnt from.'
            raise OptionError(msg)
        if self.method == "balanced" and not self.balance:
            msg = 'method="balanced" without balance. Name the attributes to balance, such as balance=["age", "sex"].'
            raise OptionError(msg)
        counted = Counter(entry for entries in lists.values() for entry in dict.fromkeys(entries))
        twice = sorted(entry for entry, number in counted.items() if number > 1)
        if twice:
            homes = ", ".join(name for name, entries in lists.items() if twice[0] in entries)
            msg = (
                f"{len(twice)} ids in two lists, first {twice[0]!r}, in {homes}. An id is learnt from or held out; "
                "list it once."
            )
            raise OptionError(msg)
