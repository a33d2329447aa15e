"""The shape of each command's reply: one function per command, called from one place.

The other end may be another program, a faulty server, or an attacker. So the drivers check every reply where it is read
(`verify`), before it is used. A reply of the wrong shape is `Senseless`: the connection is closed, and the call ends as
if the server were dead. Code behind `verify` does not check shapes.

Errors that the server reports fit every command, with few exceptions; `topology` interprets them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cachebox.distributed._wire import scripts
from cachebox.distributed._wire.keyspace import SLOTS
from cachebox.distributed._wire.resp import Push, Replies, ReplyError, Senseless, are_rows

if TYPE_CHECKING:
    from cachebox.distributed._net.effects import Commands

Command: TypeAlias = Sequence[Any]
Fits: TypeAlias = Callable[[Any, Command], bool]

NONE = 0xFFFFFFFF
ROW = struct.Struct(">Id")
"""The bytes before each entry that is read: its length (`NONE`: there is none), and the milliseconds it has to live."""
KEYS_AT = 3
"""The index of a script's first key, which names the generation."""

_asked_elsewhere = re.compile(r"ASK [0-9]{1,5} [!-~]*:[0-9]{1,5}").fullmatch
_flags = re.compile(rb"[01]*").fullmatch
_answers = re.compile(rb"[01][123]*").fullmatch
_sum = re.compile(rb"[01]-?[0-9]{1,4300}").fullmatch
_digest = re.compile(rb"[0-9a-f]{40}").fullmatch
_host = re.compile(rb"[!-~]+").fullmatch


def verify(commands: Commands, replies: list[Any], rest: Replies | None = None) -> None:
    """Raise `Senseless` unless each reply fits its command.

    `rest`: what else the connection has received, which may be complete pushes only. O(number of keys and names).
    """
    for command, reply in zip(commands, replies):  # noqa: B905 - as many as were asked for
        name = command[0]
        fits = SHAPES[command[1] if name == b"EVALSHA" else name] if type(reply) is not ReplyError else _error
        if not fits(reply, command):
            raise Senseless(f"a {type(reply).__name__} is no answer to {name.decode()}, or has the wrong shape")
    while rest is not None and not rest.is_empty:
        if type(rest.next()) is not Push:
            raise Senseless("more came than was asked for")


def _error(reply: ReplyError, command: Command) -> bool:
    """Whether an error can be an answer to this command."""
    if reply.code == "ASK":
        return _asked_elsewhere(str(reply)) is not None
    return reply.code != "NOSCRIPT" or command[0] == b"EVALSHA"


def _keys(command: Command) -> int:
    """The number of names that a script got, without the generation's."""
    found: int = command[2] - 1
    return found


def _arguments(command: Command) -> Sequence[Any]:
    return command[KEYS_AT + command[2]:]


def _is_count(reply: Any, most: int) -> bool:
    return type(reply) is int and 0 <= reply <= most


def _is_time_left(reply: Any) -> bool:
    """Milliseconds; -1: never expires."""
    return type(reply) is int and -1 <= reply < 2**63


def _are_flags(reply: Any, n: int) -> bool:
    return type(reply) is bytes and len(reply) == n and _flags(reply) is not None


# --- scripts ----------------------------------------------------------------------------------------------------------


def _read(reply: Any, command: Command) -> bool:
    return are_rows(reply, command[2] - 1)


def _write(reply: Any, command: Command) -> bool:
    return _are_flags(reply, 1 + int(_arguments(command)[1]))


def _add(reply: Any, command: Command) -> bool:
    return reply == b"" or _are_flags(reply, 1 + int(_arguments(command)[2]))


def _swap(reply: Any, command: Command) -> bool:
    return type(reply) is bytes and reply in (b"0", b"10", b"11")


def _number_of_keys(reply: Any, command: Command) -> bool:
    return _is_count(reply, _keys(command))


def _yes_or_no(reply: Any, command: Command) -> bool:
    return _is_count(reply, 1)


def _ttl(reply: Any, command: Command) -> bool:
    return _is_time_left(reply) or (type(reply) is int and reply == -2)


def _increment(reply: Any, command: Command) -> bool:
    if type(reply) is list:
        return len(reply) == 1 and type(reply[0]) is bytes
    return type(reply) is bytes and _sum(reply) is not None


def _lead(reply: Any, command: Command) -> bool:
    if type(reply) is not list or not reply or type(reply[0]) is not int:
        return False
    kind, rest = reply[0], reply[1:]
    if kind == 1:
        return len(rest) == 2 and type(rest[0]) is bytes and _is_time_left(rest[1])
    if kind == 2:
        return len(rest) == 2 and _is_time_left(rest[0]) and type(rest[1]) is bytes and len(rest[1]) == 16
    if kind == 3:
        return len(rest) == 1 and _is_count(rest[0], 1)
    if kind == 4:                                   # only if the command names a leader that was waited for
        return len(rest) == 1 and type(rest[0]) is bytes and _keys(command) == 3
    return kind == 5 and not rest and _arguments(command)[4] != b""


def _complete(reply: Any, command: Command) -> bool:
    if type(reply) is not list or not reply or type(reply[0]) is not int:
        return False
    if reply[0] == 1:
        return len(reply) == 2 and _are_flags(reply[1], int(_arguments(command)[5]))
    return reply == [0]


def _lead_many(reply: Any, command: Command) -> bool:
    return type(reply) is bytes and len(reply) == 1 + _keys(command) and _answers(reply) is not None


def _complete_many(reply: Any, command: Command) -> bool:
    return _are_flags(reply, _keys(command))


# --- other commands ---------------------------------------------------------------------------------------------------


def _ok(reply: Any, command: Command) -> bool:
    return type(reply) is str and reply == "OK"


def _ok_or_nothing(reply: Any, command: Command) -> bool:
    return _ok(reply, command) or (reply is None and command[-1] == b"NX")


def _pong(reply: Any, command: Command) -> bool:
    return type(reply) is str and reply == "PONG"


def _time(reply: Any, command: Command) -> bool:
    return type(reply) is list and len(reply) == 2 and all(_is_decimal(part) for part in reply)


def _is_decimal(text: Any) -> bool:
    return type(text) is bytes and text.isdigit() and len(text) <= 20


def _page(reply: Any, command: Command) -> bool:
    return (
        type(reply) is list and len(reply) == 2 and _is_decimal(reply[0])
        and type(reply[1]) is list and {bytes}.issuperset(map(type, reply[1]))
    )


def _loaded(reply: Any, command: Command) -> bool:
    return type(reply) is bytes and _digest(reply) is not None


def _greeting(reply: Any, command: Command) -> bool:
    if type(reply) is not dict or type(reply.get(b"proto")) is not int:
        return False
    mode = reply.get(b"mode", b"standalone")
    return type(mode) is bytes and mode.isalpha()


def _slots(reply: Any, command: Command) -> bool:
    """Ranges of slots, no slot twice: first, last, the master's address, then anything."""
    if type(reply) is not list:
        return False
    named = 0
    for row in reply:
        if type(row) is not list or len(row) < 3 or type(row[0]) is not int or type(row[1]) is not int:
            return False
        first, last, master = row[:3]
        if not 0 <= first <= last < SLOTS or type(master) is not list or len(master) < 2:
            return False
        named += last + 1 - first
        if not (master[0] is None or master[0] == b"" or _is_host(master[0])):
            return False
        if type(master[1]) is not int or not _is_port(master[1]):
            return False
    return named <= SLOTS


def _master(reply: Any, command: Command) -> bool:
    """The address of the master, or None."""
    return reply is None or (
        type(reply) is list and len(reply) == 2 and _is_host(reply[0]) and _is_decimal(reply[1])
        and _is_port(int(reply[1]))
    )


def _is_host(text: Any) -> bool:
    return type(text) is bytes and len(text) < 256 and _host(text) is not None


def _is_port(number: int) -> bool:
    return 0 < number < 65536


SHAPES: dict[bytes, Fits] = {
    scripts.READ.digest: _read,
    scripts.WRITE.digest: _write,
    scripts.ADD.digest: _add,
    scripts.SWAP.digest: _swap,
    scripts.DELETE.digest: _number_of_keys,
    scripts.TTL.digest: _ttl,
    scripts.TOUCH.digest: _yes_or_no,
    scripts.INCREMENT.digest: _increment,
    scripts.LEAD.digest: _lead,
    scripts.COMPLETE.digest: _complete,
    scripts.FAIL.digest: _yes_or_no,
    scripts.LEASE.digest: _number_of_keys,
    scripts.LEAD_MANY.digest: _lead_many,
    scripts.COMPLETE_MANY.digest: _complete_many,
    scripts.CLEAR.digest: _yes_or_no,
    scripts.INVALIDATE_TAG.digest: _yes_or_no,
    scripts.CLEAN.digest: _number_of_keys,
    b"ASKING": _ok,
    b"CLIENT": _ok,
    b"CLUSTER": _slots,
    b"HELLO": _greeting,
    b"PING": _pong,
    b"SCAN": _page,
    b"SCRIPT": _loaded,
    b"SENTINEL": _master,
    b"SET": _ok_or_nothing,
    b"TIME": _time,
}
"""Shapes by a script's digest, or a command's name."""
