"""How well a state is known, in words."""

from typing import Final

KNOWN_BY: Final = {
    "callback": "callbacks only; the provider was not asked since",
    "confirmed": "callbacks, confirmed by the provider's answers",
    "observed": "the provider's answers only; no callback said so",
    "contradicted": "contradicted by a later claim that is not settled yet",
    "decided": "what Rollcall did",
}
