"""The protocol, RESP3, as bytes: commands out, replies in.

It does no input and output, so the blocking driver, the asyncio driver and the tracking connection share it. It is
compiled because a busy tracking connection reads ten thousand messages a second, next to the program's own Python code.

The other end may send anything. Bytes that do not follow the protocol raise `Senseless`. Nothing here recurses. Memory
grows with what has arrived, never with what was announced. Time is linear in the bytes, however they are cut.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcpy

import re


class Senseless(ValueError):
    """Bytes that do not follow the protocol, or do not answer the command. The server counts as dead."""


class ReplyError(Exception):
    """An error that the server returns instead of a result."""

    @property
    def code(self):
        """The first word, in capitals: the kind of error, such as ``MOVED``."""
        return str(self).partition(" ")[0]


class Push(list):
    """A message outside of any command's reply: ``[kind, ...]``."""

    __slots__ = ()


class Incomplete:
    """The result of `Replies.next` when more has to be read first."""


INCOMPLETE = Incomplete()

CHUNK = 65536
"""Bytes to ask a connection for at a time."""
LARGEST_CHUNK = 1 << 20
"""The most bytes to ask for at a time, however much was announced."""
DEEPEST = 32
"""The deepest nesting of aggregates."""

cdef tuple TEXTS = (bytes, str)
cdef Py_ssize_t MOST_DIGITS = 4300              # of a big number: Python takes no more
cdef object DOUBLE = re.compile(rb"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,5})?|inf|nan)").fullmatch


def packed(*args):
    """A command as bytes for the server. O(length of the arguments).

    Args:
        args: bytes, str or int.

    >>> packed("GET", b"key")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$3\\r\\nkey\\r\\n'
    """
    return packed_list(args)


def packed_all(commands):
    """Several commands, each a list or a tuple as `packed_list` takes it."""
    return packed_list(commands[0]) if len(commands) == 1 else b"".join([packed_list(args) for args in commands])


def packed_list(args):
    """A command as bytes, from a list or a tuple."""
    cdef list parts = [b"*%d\r\n" % len(args)]
    cdef bytes data
    for arg in args:
        if type(arg) is bytes:
            data = arg
        elif type(arg) is str:
            data = (<str>arg).encode("utf-8", "surrogatepass")
        else:
            data = b"%d" % arg
        parts.append(b"$%d\r\n" % PyBytes_GET_SIZE(data))
        parts.append(data)
        parts.append(b"\r\n")
    return b"".join(parts)


cdef class Frame:
    """An aggregate whose items have not all been read."""
    cdef char kind
    cdef Py_ssize_t left
    cdef object items               # a list, or a Push


cdef class Begun:
    """The result of `Replies.read` if no value is complete yet, but there may be more to read."""


cdef Begun BEGUN = Begun.__new__(Begun)


cdef class Replies:
    """What one connection has received and nobody has taken yet. Not thread-safe: a connection has one reader.

    >>> replies = Replies()
    >>> replies.feed(b"+OK\\r\\n$3\\r\\nab")
    >>> replies.next(), replies.next() is INCOMPLETE
    ('OK', True)
    >>> replies.feed(b"c\\r\\n")
    >>> replies.next()
    b'abc'
    """
    cdef bytearray data
    cdef Py_ssize_t at              # where the next part begins
    cdef Py_ssize_t searched        # no end of the line lies before this offset
    cdef Py_ssize_t wanted          # length of `data` below which reading is in vain
    cdef list open                  # the aggregates under way, outermost first: what was read stays read

    def __cinit__(self):
        self.data = bytearray()
        self.open = []

    def feed(self, data):
        """Add received bytes. O(n)."""
        if self.at:
            del self.data[:self.at]
            self.wanted -= self.at
            self.searched -= self.at
            self.at = 0
        self.data += data

    @property
    def missing(self):
        """How many more bytes the next reply needs at least, by its announced length; 0: unknown."""
        return max(0, self.wanted - PyByteArray_GET_SIZE(self.data))

    @property
    def is_empty(self):
        """Whether everything received has been taken."""
        return self.at == PyByteArray_GET_SIZE(self.data) and not self.open

    def next(self):
        """The next reply, or INCOMPLETE. Errors are returned, as `ReplyError`. Raises Senseless for a violation of
        the protocol."""
        cdef Frame frame
        cdef list open = self.open
        while True:
            found = self.read()
            if found is INCOMPLETE:
                return found
            while found is not BEGUN:
                if not open:
                    return found
                frame = <Frame>open[len(open) - 1]
                (<list>frame.items).append(found)
                frame.left -= 1
                if frame.left:
                    break
                open.pop()
                found = completed(frame.kind, frame.items)

    def collect(self, list found, Py_ssize_t n):
        """Append the next replies until `found` has n, and drop pushes. Returns whether it has n; else feed more."""
        while len(found) < n:
            reply = self.next()
            if reply is INCOMPLETE:
                return False
            if type(reply) is not Push:
                found.append(reply)
        return True

    cdef object read(self):
        """The next part: a complete value, BEGUN or INCOMPLETE."""
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.data), n, end, body
        cdef char* start = PyByteArray_AS_STRING(self.data)
        cdef char* found
        cdef char kind
        if self.at == size or size < self.wanted:
            return INCOMPLETE
        body = self.searched if self.searched > self.at else self.at
        found = <char*>memchr(start + body, c"\n", size - body)
        if found == NULL:
            self.searched = size
            return INCOMPLETE
        end = found - start - 1
        if end < self.at or start[end] != c"\r":
            raise Senseless("a line of a reply does not end in CR LF")
        if end == self.at:
            raise Senseless("a line of a reply is empty")
        kind = start[self.at]
        body = self.at + 1
        if kind == c"$" or kind == c"=" or kind == c"!":
            n = length(start + body, end - body, kind == c"$")
            if n < 0:
                self.at = end + 2
                return None
            if size < end + 2 + n + 2:
                self.wanted = end + 2 + n + 2
                return INCOMPLETE
            body = end + 2
            end = body + n
            if start[end] != c"\r" or start[end + 1] != c"\n":
                raise Senseless("a text in a reply is longer than announced")
            if kind == c"=" and (n < 4 or start[body + 3] != c":"):
                raise Senseless("a text in a reply does not say its format")
            if kind == c"=":
                body += 4
            data = PyBytes_FromStringAndSize(start + body, end - body)
            self.at = end + 2
            return ReplyError(data.decode("utf-8", "replace")) if kind == c"!" else data
        if kind == c"*" or kind == c"~" or kind == c">" or kind == c"%" or kind == c"|":
            n = length(start + body, end - body, kind == c"*")
            if kind == c">" and self.open:
                raise Senseless("a push stands inside a reply")
            self.at = end + 2
            return None if n < 0 else self.begin(kind, n)
        self.at = end + 2
        return simple(kind, PyBytes_FromStringAndSize(start + body, end - body))

    cdef object begin(self, char kind, Py_ssize_t n):
        """Begin an aggregate of n items, or of n pairs."""
        cdef Frame frame
        items = Push() if kind == c">" else []
        if n == 0:
            return completed(kind, items)
        if len(self.open) >= DEEPEST:
            raise Senseless("a reply is nested too deeply")
        frame = Frame.__new__(Frame)
        frame.kind = kind
        frame.left = 2 * n if kind == c"%" or kind == c"|" else n
        frame.items = items
        self.open.append(frame)
        return BEGUN


cdef object completed(char kind, object items):
    """The value of a complete aggregate."""
    if kind == c"|":
        return BEGUN                            # an attribute of the next reply: not needed
    if kind == c">" and not (items and type(items[0]) in TEXTS):
        raise Senseless("a push does not say of what kind it is")
    if kind != c"%":
        return items
    for key in items[::2]:                      # the hashes of other types could be chosen so that all collide
        if type(key) not in TEXTS:
            raise Senseless("a key of a map in a reply is no text")
    return dict(zip(items[::2], items[1::2]))


cdef object simple(char kind, bytes text):
    """The value of a line."""
    if kind == c"+":
        return text.decode("utf-8", "replace")
    if kind == c"-":
        return ReplyError(text.decode("utf-8", "replace"))
    if kind == c":" and is_number(text, 19) or kind == c"(" and is_number(text, MOST_DIGITS):
        return int(text)
    if kind == c"_" and not text:
        return None
    if kind == c"#" and (text == b"t" or text == b"f"):
        return text == b"t"
    if kind == c"," and DOUBLE(text) is not None:
        return float(text)
    raise Senseless(f"a line of a reply begins with {chr(<unsigned char>kind)!r}, and what follows does not fit")


cdef bint is_number(bytes text, Py_ssize_t most):
    """Whether a text is an int of at most `most` digits."""
    cdef char* digits = PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text), k = n > 0 and (digits[0] == c"-" or digits[0] == c"+")
    if not 1 <= n - k <= most:
        return False
    for k in range(k, n):
        if not c"0" <= digits[k] <= c"9":
            return False
    return True


cdef Py_ssize_t length(char* digits, Py_ssize_t n, bint may_be_null) except? -2:
    """The length in a line; -1: a null."""
    cdef Py_ssize_t value = 0, k
    if may_be_null and n == 2 and digits[0] == c"-" and digits[1] == c"1":
        return -1
    if not 1 <= n <= 18:
        raise Senseless("a length in a reply is not a number")
    for k in range(n):
        if not c"0" <= digits[k] <= c"9":
            raise Senseless("a length in a reply is not a number")
        value = value * 10 + (digits[k] - c"0")
    return value


def are_rows(reply, Py_ssize_t n):
    """Whether a reply is n entries as the script READ returns them. O(n).

    An entry is its length in 4 bytes (all ones: there is none), the milliseconds it has to live (a double, at least
    -1), and the envelope. All numbers are big-endian.
    """
    cdef unsigned char* start
    cdef Py_ssize_t at = 0, size, length
    cdef uint64_t bits
    cdef double milliseconds
    cdef int k
    if type(reply) is not bytes:
        return False
    start = <unsigned char*>PyBytes_AS_STRING(reply)
    size = PyBytes_GET_SIZE(reply)
    for _ in range(n):
        if size - at < 12:
            return False
        length = 0
        for k in range(4):
            length = length << 8 | start[at + k]
        bits = 0
        for k in range(4, 12):
            bits = bits << 8 | start[at + k]
        memcpy(&milliseconds, &bits, 8)
        if not -1.0 <= milliseconds < 1e19:         # this excludes NaN, too
            return False
        at += 12 if length == 0xFFFFFFFF else 12 + length
        if at > size:
            return False
    return at == size
