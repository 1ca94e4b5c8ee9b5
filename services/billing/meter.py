"""Asks the meter for tokens: what the books divide by."""

import msgspec

from shared.bus import subjects
from shared.bus.ports import Bus
from shared.errors import BusUnavailable, Refusal
from shared.messages.codec import encode
from shared.messages.meter import Refused, Tokens, TokensQuery

METER_SECONDS = 10.0
"""For a day's sums: the ledger answers in milliseconds, its database may be busy for seconds."""
_answers: msgspec.json.Decoder[Tokens | Refused] = msgspec.json.Decoder(Tokens | Refused)


class Meter:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def tokens(self, query: TokensQuery) -> Tokens:
        """`Refusal` where the meter has no answer: without its tokens there is no figure."""
        try:
            asked = self._bus.request(subjects.METER_TOKENS, encode(query), timeout=METER_SECONDS)
            answer = _answers.decode(await asked)
        except BusUnavailable as error:
            raise Refusal(f"the meter does not answer ({error}): ask again when it runs") from error
        except msgspec.DecodeError as error:
            raise Refusal(f"the meter's answer is unreadable ({error}): run the same version of both") from error
        if isinstance(answer, Refused):
            raise Refusal(f"the meter refused: {answer.reason}")
        return answer
