"""How a subcommand gives up."""


class CommandError(Exception):
    """It cannot go on; the message tells the user why, and what to do about it."""
