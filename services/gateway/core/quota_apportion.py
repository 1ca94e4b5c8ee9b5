"""How the rest of a limit is divided among gateways that want some of it."""

from collections.abc import Sequence


def split(rest: int, wants: Sequence[int]) -> list[int]:
    """One part for each of `wants`; their sum is at most `rest`.

    Equal parts where nobody is short. Else those who are get what they want, the smallest first, as far as it goes, and
    seven eighths of what remains; an eighth stays in equal parts with the others, so that a request there need not
    wait. Without the remainder of a division, which is the lender's.
    """
    short = [at for at, want in sorted(enumerate(wants), key=lambda pair: pair[1]) if want > 0]
    if not short:
        return [rest // len(wants)] * len(wants)
    parts = [0] * len(wants)
    for at in short:
        if wants[at] <= rest:
            parts[at] = wants[at]
            rest -= wants[at]
    calm = len(wants) - len(short)
    kept = rest // 8 if calm else 0
    for at, want in enumerate(wants):
        parts[at] += (rest - kept) // len(short) if want > 0 else kept // calm
    return parts
