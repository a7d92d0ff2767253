"""What a search for a layer's grids may decide, and what it is told."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...compiler.floats import named_float
from ..errors import RefusedInput
from .alphabet import HOSTS, atom_named, atom_names, learned_name
from .metrics import METRICS

#: What elements weigh when levels are clustered: nothing, their channel norm, or its square.
LLOYD_WEIGHTS = ("none", "c", "c2")
#: Which blocks are a first grid's own before a second one is built for the rest: those that it
#: serves best, or best beside the best other atom; or none: the second is built for all blocks.
POOLS = ("best", "regret", "none")
#: What an encoder chooses by, so that it chooses as the search did.
POLICIES = {"acos": "cosine", "mse": "squared", "wmse": "weighted"}

_WORD = re.compile(r"(U|S0|S1|)E([1-9]\d?)M(\d{1,2})")
_ALIASES = {"FP32": "E8M23", "BF16": "E8M7", "FP16": "E5M10"}


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How grids are searched for one unit of matrices.

    Attributes:
        atoms: the alphabet, each with its negation; empty: all of the width. ``DD4`` among them
            stands for a grid that is learned for the unit.
        pair: atoms to take as they are, one for each grid (``DD4`` is still learned); None: they
            are searched for.
        bits: of a code.
        grids: how many grids a block chooses from, 1 or 2.
        block: elements of a block.
        scale: the scale word, as in a SOP string: ``UE4M3``, ``S1E5M5``, ``FP32``.
        rule: ``absmax`` or ``argmax``.
        host: what holds the values, from ``alphabet.HOSTS``.
        rank: the metric by which blocks are ranked for a first grid's pool.
        reassign: the metric by which blocks choose their grid, pairs are compared, and the
            encoder chooses.
        lloyd: from ``LLOYD_WEIGHTS``.
        pool: from ``POOLS``.
        shares: percentages of the blocks that a pool holds; the best result counts.
        signs: whether every grid is tried mirrored as well, under a negative scale.
        search: stored scales above and below the rule's that the encoder tries as well; an FP32
            scale has no neighbours. Candidates
            are found without them; the best few are compared, and written, with them. 1, and
            ``wmse`` for ``reassign``, halve the KL on SmolLM2-135M: see docs/models.md.
        sample: blocks that are looked at.
        rounds: at most so many times a learned grid is built again for the blocks that chose it.

    Raises:
        RefusedInput: an option is none of these, or they do not go together.
    """

    atoms: tuple[str, ...] = ()
    pair: tuple[str, ...] | None = None
    bits: int = 4
    grids: int = 2
    block: int = 16
    scale: str = "UE4M3"
    rule: str = "absmax"
    host: str = "hif7"
    rank: str = "acos"
    reassign: str = "wmse"
    lloyd: str = "none"
    pool: str = "best"
    shares: tuple[int, ...] = (30, 50, 70)
    signs: bool = False
    search: int = 1
    sample: int = 8192
    rounds: int = 8

    def __post_init__(self) -> None:
        """Check every option."""
        for key, value, known in (
            ("rule", self.rule, ("absmax", "argmax")),
            ("host", self.host, HOSTS),
            ("rank", self.rank, METRICS),
            ("reassign", self.reassign, METRICS),
            ("lloyd", self.lloyd, LLOYD_WEIGHTS),
            ("pool", self.pool, POOLS),
        ):
            if value not in known:
                raise RefusedInput(f"'{key}' cannot be '{value}': it is {', '.join(known)}")
        self._check_numbers()
        for name in (*self.atoms, *(self.pair or ())):
            atom_named(name, self.bits)
        self._check_pair()
        self._check_word()

    def _check_numbers(self) -> None:
        for key, number, low, high in (
            ("grids", self.grids, 1, 2),
            ("block", self.block, 2, 4096),
            ("sample", self.sample, 1, 1 << 20),
            ("rounds", self.rounds, 1, 1000),
            ("search", self.search, 0, 8),
        ):
            if not low <= number <= high:
                raise RefusedInput(f"'{key}' cannot be {number}: it is {low} to {high}")
        if not self.shares or not all(0 < share < 100 for share in self.shares):
            raise RefusedInput(f"'shares' cannot be {self.shares}: they are percentages, 1 to 99")

    def _check_pair(self) -> None:
        if self.pair is None:
            return
        names = [atom_named(name, self.bits) for name in self.pair]
        if len(names) != self.grids:
            raise RefusedInput(
                f"'{'|'.join(self.pair)}' has {len(names)} atoms for {self.grids} grid"
                f"{'s' * (self.grids > 1)}: a search is for one grid or a pair"
            )
        if len(set(names)) < len(names):
            raise RefusedInput(f"the atom '{names[0]}' stands twice: keep one of them")

    def _check_word(self) -> None:
        sign, free = self.word_bits
        if self.signs and not sign:
            raise RefusedInput(
                f"the scale word {self.scale} has no sign to mirror a grid by: take S1E5M5"
            )
        if self.grids > 1 and not free and not (sign and self._sign_is_free):
            raise RefusedInput(
                f"the scale word {self.scale} has no room for the bit that selects a grid: take "
                "UE4M3 (8 bits) or S1E5M5 (12 bits)"
            )
        if self.rule == "argmax" and not sign:
            raise RefusedInput(f"rule argmax needs a signed scale word, not {self.scale}: S1E5M5")

    @property
    def could_mirror(self) -> bool:
        """Whether the scale word has a sign that is free to mirror grids by, block by block."""
        sign, free = self.word_bits
        return bool(sign) and self.rule == "absmax" and (self.grids == 1 or free > 0)

    @property
    def _sign_is_free(self) -> bool:
        return not self.signs and self.rule == "absmax"

    @property
    def word_bits(self) -> tuple[int, int]:
        """How many sign bits (0 or 1) and free bits the scale word has in its container.

        Raises:
            RefusedInput: it is no scale word.
        """
        word = self.scale.upper()
        match = _WORD.fullmatch(_ALIASES.get(word, word))
        if match is None or named_float(self.scale.lower()) is None:
            raise RefusedInput(f"'{self.scale}' is no scale word: UE4M3, UE4M4, S1E5M5, FP32 ...")
        sign = int(match[1] in ("", "S1"))
        used = sign + int(match[2]) + int(match[3])
        return sign, next(size for size in (8, 12, 16, 32, 128) if size >= used) - used

    @property
    def unsigned_bits(self) -> int:
        """Of an unsigned scale word, exponent and mantissa bits; 0 of a signed one."""
        match = _WORD.fullmatch(self.scale.upper())
        signed = match is None or match[1] in ("", "S1")
        return 0 if signed or match is None else int(match[2]) + int(match[3])

    @property
    def exponent_bits(self) -> int:
        """Of the scale word; words with fewer than 8 get a shift for every matrix."""
        word = self.scale.upper()
        match = _WORD.fullmatch(_ALIASES.get(word, word))
        return 8 if match is None else int(match[2])

    @property
    def of_one_grid(self) -> SearchOptions:
        """What decides the format of a grid alone, alike for all searches that score it alike."""
        return SearchOptions(
            bits=self.bits,
            grids=1,
            block=self.block,
            scale=self.scale,
            rule=self.rule,
            host=self.host,
            reassign=self.reassign,
            signs=self.signs,
            search=0,
        )

    @property
    def tries(self) -> int:
        """``search`` where stored scales have neighbours, else 0."""
        return 0 if self.scale.upper() in ("FP32", "E8M23") else self.search

    @property
    def place(self) -> str:
        """Where the bit lives that selects a grid: the word's free bits, or else its sign."""
        return "scale.meta" if self.word_bits[1] else "scale.sign"

    @property
    def mirrors(self) -> bool:
        """Whether both signs of every grid are tried block by block."""
        return self.signs and self.rule == "absmax"

    @property
    def names(self) -> tuple[str, ...]:
        """The alphabet, as it is known, without repeats."""
        asked = self.atoms or atom_names(self.bits)
        return tuple(dict.fromkeys(atom_named(name, self.bits) for name in asked))

    @property
    def learns(self) -> bool:
        """Whether a grid may be learned."""
        return learned_name(self.bits) in (self.names if self.pair is None else self.fixed)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The atoms of ``pair`` as they are known."""
        return tuple(atom_named(name, self.bits) for name in self.pair or ())
