"""The one cleaning rule for sequences of tasks, and counts of what it met."""

from __future__ import annotations

from collections import Counter

from plmscale.errors import PlmscaleError

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
# Unknown, B = D or N, Z = E or Q, J = I or L, selenocysteine, pyrrolysine.
OTHER = "XBZJUO"
STOP = "*"
_USUAL = STANDARD.encode()
_KNOWN = frozenset(STANDARD + OTHER)


class Letters:
    """Cleans sequences, one rule for all tasks and sources.

    Lower case becomes upper. U, O, B, Z, J and X are kept and counted: what a model makes of them
    is the model's affair. A sequence with a stop `*` is kept where `stops` says so, else left out
    and counted, and so is an empty one. Any other character means that the source is not what it
    was: an error.
    """

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.dropped: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.lower = 0

    def clean(self, raw: object, where: str) -> str | None:
        """Return the cleaned sequence, or None for one that is left out.

        `where` names file and row in errors. Raises PlmscaleError for a character that is no
        letter of a protein.
        """
        text = raw.strip() if isinstance(raw, str) else ""
        if not text:
            self.dropped["empty sequence"] += 1
            return None
        # Nearly all sequences end here, and there are millions.
        if not text.encode().translate(None, delete=_USUAL):
            return text
        upper = text.upper()
        self.lower += upper != text
        text, found = upper, set(upper) - set(STANDARD)
        if STOP in found and not self.stops:
            self.dropped["stop inside the sequence"] += 1
            return None
        if strange := found - _KNOWN - {STOP}:
            raise PlmscaleError(
                f"{where}: the sequence has {sorted(strange)!r}; expected the 20 amino acids, "
                f"{', '.join(OTHER)} or *: is this column the sequence, and is the file the one "
                "expected?"
            )
        for letter in found:
            self.others[letter] += text.count(letter)
        return text

    def notes(self) -> list[str]:
        """Return in words what was changed or is unusual."""
        notes = []
        if self.others:
            counts = ", ".join(f"{letter} {n:,}" for letter, n in sorted(self.others.items()))
            notes.append(f"letters beside the 20 amino acids, kept: {counts}")
        if self.lower:
            notes.append(f"{self.lower:,} sequences had lower-case letters, made upper")
        return notes
