"""The exception by which a subcommand gives up."""


class CommandError(Exception):
    """A subcommand cannot go on; the message tells the user why, and what to do about it."""
