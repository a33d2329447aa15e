"""The health of a server: whether it is asked at all, why it did not serve, and what it has refused.

Each change is logged once, to the logger ``cachebox``, and never with a key or a value: what a server quotes of a
command is cut off. A refusal stands until something succeeds that it would have prevented.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from cachebox._platform.section import Section
from cachebox.distributed._net.breaker import CLOSED, Breaker
from cachebox.distributed._net.refusals import refusal_in
from cachebox.distributed._wire.scripts import LEAD, STORING, WRITING

log = logging.getLogger("cachebox")

ENTRY = "to let us in"
MEMORY = "to store more"
WRITES = "to be written"
KINDS = {"OOM": MEMORY, "READONLY": WRITES, "NOREPLICAS": WRITES, "MISCONF": WRITES}
"""What is refused, by the first word of the refusal; other refusals concern one command."""


def redacted(words: str) -> str:
    """A server's words without the part that quotes a command or differs from one command to the next.

    >>> redacted("ERR unknown command 'EVALSHA', with args beginning with: 'a' 'key' ")
    "ERR unknown command 'EVALSHA'"
    """
    return re.split(r",? with args |\.? script: |, on @user_script", words, maxsplit=1)[0]


class Health:
    """What is known about one server. Thread-safe; O(1).

    `is_troubled` is False while all is well, so that a call checks one flag.
    """

    def __init__(self, name: Any) -> None:
        self._name = name
        self.breaker = Breaker()
        self.renew()

    def renew(self) -> None:
        """Forget everything: at first, and after a fork, because another thread may have held the lock."""
        self._lock = Section()
        self.breaker.reset()
        self.failure = ""                       # why the last call was not served
        self.refusals: dict[str, str] = {}      # what was refused -> in which words
        self.is_troubled = False

    @property
    def entry_refusal(self) -> str | None:
        """Why the server does not let this client in, in its words."""
        return self.refusals.get(ENTRY)

    @property
    def words(self) -> str | None:
        """What is wrong, in words; None: nothing."""
        return self.entry_refusal or self.failure or next(iter(self.refusals.values()), None)

    def has_failed(self, error: BaseException) -> None:
        """A call was not served, or a connection not made."""
        words = refusal_in(error)
        if words is not None:
            self.refuse(ENTRY, words)
        self.failure = words or str(error) or type(error).__name__
        self.is_troubled = True
        if self.breaker.failed() and words is None:
            log.warning("%s does not serve, and is not asked before it does: %s", self._name, redacted(self.failure))

    def serves(self) -> None:
        """The server carried out a command."""
        self.failure = ""
        changed = self.breaker.succeeded()
        self._settle()
        if changed:
            log.info("%s serves again", self._name)

    def lets_in(self) -> None:
        """A connection was made."""
        self.grant(ENTRY)

    def refused(self, command: Sequence[Any], words: str) -> None:
        """The server refused a command."""
        self.refuse(KINDS.get(words.partition(" ")[0]) or _name(command), words)

    def refuse(self, what: str, words: str) -> None:
        """Note and log that the server refuses something, in these words."""
        with self._lock:
            known = {redacted(other) for other in self.refusals.values()}
            self.refusals = {**self.refusals, what: words}
            self.is_troubled = True
        if redacted(words) not in known:
            log.error("%s refuses %s: %s", self._name, what, redacted(words))

    def grant(self, what: str) -> None:
        """The server does not refuse something any more."""
        with self._lock:
            known = self.refusals
            self.refusals = {other: words for other, words in known.items() if other != what}
        self._settle()
        if what in known:
            log.info("%s does not refuse %s any more", self._name, what)

    def has_answered(self, command: Sequence[Any], reply: Any) -> None:
        """The server carried out a command. Only a script shows that it serves: even a server that does not serve
        answers PING."""
        if command[0] != b"EVALSHA":
            self.grant(_name(command))
            return
        digest = command[1]
        self.serves()
        if self.refusals:
            self.grant(_name(command))
            leads = digest == LEAD.digest and reply[0] == 3
            if digest in WRITING or leads:
                self.grant(WRITES)
            if (digest in STORING and type(reply) is bytes) or leads:
                self.grant(MEMORY)

    def _settle(self) -> None:
        with self._lock:
            self.is_troubled = bool(self.refusals or self.failure or self.breaker.state != CLOSED)


def _name(command: Sequence[Any]) -> str:
    """The name of a command in refusals."""
    name = command[0].decode() if isinstance(command[0], bytes) else str(command[0])
    return f"a script ({command[1][:8].decode()})" if name == "EVALSHA" else name
