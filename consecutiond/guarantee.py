"""The one sentence that says what a receipt is worth: it follows from the store and from what is kept there."""

from typing import Final, Literal

#: where accounts or input values are: nowhere, in the acker's memory, or in the store
Kept = Literal["off", "memory", "disk"]

MEMORY: Final = "Kept in the acker's memory: an accepted item is lost when the acker dies."
OFF: Final = (
    "at most once: nothing is tracked or recorded; items that fail, or are in a part that dies, are counted and gone"
)
#: what is added where the two are apart
_VALUES_IN_MEMORY: Final = (
    "its value is in the acker's memory until it fails or is done, so what is open when the acker dies becomes a "
    "failed item without a value"
)
_VALUES_NOWHERE: Final = (
    "its value is kept nowhere, so what fails, or is in a part that dies, becomes a failed item without a value and "
    "cannot be tried again"
)
_ACCOUNTS_IN_MEMORY: Final = (
    "attempts and failures are in the acker's memory, so after its death, and at each start, every batch that is not "
    "over is tried again as a whole, from the first attempt on"
)


def sentence(held: str, acker_store: Kept, input_store: Kept) -> str:
    """Say what a receipt is worth; pure.

    Args:
        held: what the store says of whatever it holds (`Store.describe`), durability included.
        acker_store: where the accounts are.
        input_store: where the values of inputs are kept.

    Returns:
        One sentence, for people.

    """
    if acker_store == "off":
        return OFF
    if acker_store == "memory" and input_store != "disk":
        held = MEMORY
    more = _apart(held, acker_store, input_store)
    return f"{held.removesuffix('.')}; {more}." if more else held


def _apart(held: str, acker_store: Kept, input_store: Kept) -> str:
    if input_store == "off":
        return _VALUES_NOWHERE
    if held == MEMORY or acker_store == input_store:
        # All of it is in one place.
        return ""
    return _VALUES_IN_MEMORY if input_store == "memory" else _ACCOUNTS_IN_MEMORY
