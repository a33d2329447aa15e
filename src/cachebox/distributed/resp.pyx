"""The protocol, as bytes: commands out, replies in (RESP3).

It does no input and no output, so the blocking driver, the asyncio driver and the tracking link share it. It is
compiled because a busy link reads ten thousand messages a second, and beside that Python code has work of its own to do.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr


class ReplyError(Exception):
    """What the server says instead of a result: its first word is the `code`, such as ``MOVED``."""

    @property
    def code(self):
        """The first word, in capitals: what kind of error it is."""
        return str(self).partition(" ")[0]


class Push(list):
    """A message that nobody asked for: ``[kind, ...]``."""

    __slots__ = ()


class Incomplete:
    """What `Replies.next` returns when more has to be read first."""


INCOMPLETE = Incomplete()

CHUNK = 65536
"""Bytes to ask a connection for at a time."""


def packed(*args):
    """A command as the server reads it. O(length of the arguments).

    Args:
        args: bytes, str or int.

    >>> packed("GET", b"key")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$3\\r\\nkey\\r\\n'
    """
    return packed_list(args)


def packed_list(args):
    """`packed`, of a list or a tuple."""
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
    cdef Py_ssize_t at              # where the next reply begins
    cdef Py_ssize_t wanted          # bytes, from the start of `data`, below which there is no use in trying again
    cdef Py_ssize_t position        # while a reply is being read

    def __cinit__(self):
        self.data = bytearray()

    def feed(self, data):
        """Add received bytes. O(n)."""
        if self.at:
            del self.data[:self.at]
            self.wanted -= self.at
            self.at = 0
        self.data += data

    @property
    def missing(self):
        """At least so many more bytes are needed for the next reply; 0: unknown."""
        return max(0, self.wanted - PyByteArray_GET_SIZE(self.data))

    @property
    def is_empty(self):
        """Whether everything received has been taken."""
        return self.at == PyByteArray_GET_SIZE(self.data)

    def next(self):
        """The next reply, or INCOMPLETE. Errors are returned, as `ReplyError`; ValueError: this is not the protocol."""
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.data)
        if self.at == size or size < self.wanted:
            return INCOMPLETE
        self.wanted = 0
        self.position = self.at
        found = self.read(0)
        if found is not INCOMPLETE:
            self.at = self.position
        return found

    def collect(self, list found, Py_ssize_t n):
        """Append the next replies until `found` has n, and drop pushes. Returns whether it has; else feed more."""
        while len(found) < n:
            reply = self.next()
            if reply is INCOMPLETE:
                return False
            if type(reply) is not Push:
                found.append(reply)
        return True

    cdef Py_ssize_t line_end(self) except -2:
        """Where the line at `position` ends, before its CR LF; -1: not received yet."""
        cdef char* start = PyByteArray_AS_STRING(self.data)
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.data)
        cdef char* found
        if self.position >= size:
            return -1
        found = <char*>memchr(start + self.position, c"\n", size - self.position)
        if found == NULL:
            return -1
        if found == start + self.position or (found - 1)[0] != c"\r":
            raise ValueError("a line of a reply does not end in CR LF")
        return found - start - 1

    cdef object read(self, int depth):
        cdef char* start
        cdef char kind
        cdef Py_ssize_t end = self.line_end(), n, body
        if end == -1:
            return INCOMPLETE
        if depth > 32:
            raise ValueError("a reply is nested too deeply")
        start = PyByteArray_AS_STRING(self.data)
        kind = start[self.position]
        body = self.position + 1
        if kind == c"$" or kind == c"=" or kind == c"!":
            n = number(start + body, end - body)
            if n < 0:
                self.position = end + 2
                return None
            if PyByteArray_GET_SIZE(self.data) < end + 2 + n + 2:
                self.wanted = end + 2 + n + 2
                return INCOMPLETE
            self.position = end + 2 + n + 2
            found = PyBytes_FromStringAndSize(start + end + 2, n)
            if kind == c"!":
                return ReplyError(found.decode("utf-8", "replace"))
            return found[4:] if kind == c"=" else found
        if kind == c"*" or kind == c"~" or kind == c">" or kind == c"%" or kind == c"|":
            n = number(start + body, end - body)
            self.position = end + 2
            if n < 0:
                return None
            if kind == c"%" or kind == c"|":
                n *= 2
            items = Push() if kind == c">" else []
            for _ in range(n):
                item = self.read(depth + 1)
                if item is INCOMPLETE:
                    return INCOMPLETE
                items.append(item)
            if kind == c"%":
                return dict(zip(items[::2], items[1::2]))
            return self.read(depth) if kind == c"|" else items     # what is about a reply goes before it
        text = PyBytes_FromStringAndSize(start + body, end - body)
        self.position = end + 2
        if kind == c"+":
            return text.decode("utf-8", "replace")
        if kind == c"-":
            return ReplyError(text.decode("utf-8", "replace"))
        if kind == c":" or kind == c"(":
            return int(text)
        if kind == c"_":
            return None
        if kind == c"#":
            return text == b"t"
        if kind == c",":
            return float(text)
        raise ValueError(f"a reply begins with {chr(<unsigned char>kind)!r}")


cdef Py_ssize_t number(char* digits, Py_ssize_t n) except? -2:
    """A length, as it stands in a line."""
    cdef Py_ssize_t value = 0, k
    cdef bint negative = n > 0 and digits[0] == c"-"
    if n - negative < 1 or n > 18:
        raise ValueError("a length in a reply is not a number")
    for k in range(negative, n):
        if not c"0" <= digits[k] <= c"9":
            raise ValueError("a length in a reply is not a number")
        value = value * 10 + (digits[k] - c"0")
    return -value if negative else value
