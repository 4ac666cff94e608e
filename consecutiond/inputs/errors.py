"""What can be wrong with an input."""

from consecutiond_broker.errors import ConsecutiondError


class InputUriError(ConsecutiondError):
    """The uri of an input is wrong; the text names every fault of it."""


class InputError(ConsecutiondError):
    """An input cannot be opened, or what comes from it cannot be read; what came before it was accepted."""
