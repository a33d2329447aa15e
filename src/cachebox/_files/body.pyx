"""The body of a dump, written entry by entry into one growing array of bytes.

Compiled, because a dump takes the time that the encoding of its keys and values takes. What is plain becomes JSON here:
an ASCII str without a character that JSON escapes, an int of 64 bits, a bool or None. An `encode` writes all else.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cachebox._platform.lock cimport let_others_in


cdef extern from *:
    """
    /* An int that fits 64 bits as digits. Returns their number, or 0 if it does not fit. */
    static Py_ssize_t cb_write_digits(PyObject* number, char* into)
    {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(number, &overflow);     /* of an exact int: runs no code */
        char digits[24];
        Py_ssize_t n = 0, sign = value < 0;
        unsigned long long rest = sign ? 0ULL - (unsigned long long)value : (unsigned long long)value;
        if (overflow)
            return 0;
        do
            digits[sizeof(digits) - ++n] = (char)('0' + rest % 10);
        while (rest /= 10);
        if (sign)
            digits[sizeof(digits) - ++n] = '-';
        memcpy(into, digits + sizeof(digits) - n, (size_t)n);
        return n;
    }
    """
    Py_ssize_t write_digits "cb_write_digits"(object number, char* into) noexcept
    bint is_ascii "PyUnicode_IS_COMPACT_ASCII"(str text) noexcept
    char* ascii_of "PyUnicode_DATA"(str text) noexcept

cdef enum:
    HEAD = 20                       # bytes before the text of an entry: its size (4), time of expiry (8) and rank (8)
    ROOM = 64                       # bytes that the text of a plain entry takes at most without the letters of its strs
    AT_ONCE = 4096                  # entries that are written before other threads may run


cdef Py_ssize_t write_text(char* into, str text) noexcept:
    """Write an ASCII str in quotes. Returns the number of bytes, or 0 if a character has to be escaped."""
    cdef Py_ssize_t n = len(text), k
    cdef const uint8_t* letters = <const uint8_t*>ascii_of(text)
    cdef uint8_t letter, odd = 0
    for k in range(n):
        letter = letters[k]
        odd |= (letter < 0x20) | (letter == 0x22) | (letter == 0x5C) | (letter == 0x7F)     # controls, quote, backslash
    if odd:
        return 0
    into[0] = into[n + 1] = 0x22
    memcpy(into + 1, letters, n)
    return n + 2


cdef Py_ssize_t write_plain(char* into, object thing) noexcept:
    """Write something that is plain, for which there is room. Returns the number of bytes, or 0 if it is not plain."""
    if type(thing) is str:
        return write_text(into, <str>thing)
    if type(thing) is int:
        return write_digits(thing, into)
    if thing is None or thing is True:
        memcpy(into, b"null" if thing is None else b"true", 4)
        return 4
    if thing is False:
        memcpy(into, b"false", 5)
        return 5
    return 0


cdef Py_ssize_t room_for(object thing) noexcept:
    """Bytes of the text of a thing in addition to `ROOM`, if it is plain; -1: it is not."""
    if type(thing) is str:
        return len(<str>thing) if is_ascii(<str>thing) else -1
    return 0 if type(thing) is int or type(thing) is bool or thing is None else -1


cdef Py_ssize_t write_entry(char* into, object key, object value) noexcept:
    """Write ``[key,value,[]]``. Returns the number of bytes, or 0 if the key or the value is not plain."""
    cdef Py_ssize_t n = write_plain(into + 1, key), m
    if n == 0:
        return 0
    m = write_plain(into + n + 2, value)
    if m == 0:
        return 0
    into[0], into[n + 1] = b"[", b","
    memcpy(into + n + m + 2, b",[]]", 4)
    return n + m + 6


cdef int numbers_into(char* into, uint32_t size, double end, uint64_t rank) noexcept:
    """Write what comes before the text of an entry. Little-endian, as all of the file."""
    cdef uint64_t bits
    cdef int k
    memcpy(&bits, &end, 8)
    for k in range(4):
        into[k] = <char>(size >> (8 * k))
    for k in range(8):
        into[4 + k] = <char>(bits >> (8 * k))
        into[12 + k] = <char>(rank >> (8 * k))
    return 0


def write(bytearray content, list keys, list values, list ends, list ranks, list tags, encode, bint as_json):
    """Append entries to `content`. O(n).

    Args:
        content: what has been written so far. Nothing else uses it.
        keys, values: of the entries, in order.
        ends: their times of expiry, or None: none expires.
        ranks: their ranks, or None: all are 0.
        tags: their tags, or None: none has any.
        encode: returns a key, a value and a list of tags as bytes.
        as_json: whether `encode` writes JSON, so that what is plain can be written here.
    """
    cdef Py_ssize_t used = len(content), room = used, n, k
    cdef double end
    cdef uint64_t rank
    cdef bytes data
    for k in range(len(keys)):
        if k % AT_ONCE == AT_ONCE - 1:
            let_others_in()
        key, value = keys[k], values[k]
        end = float("inf") if ends is None else ends[k]
        rank = 0 if ranks is None else ranks[k]
        labels = () if tags is None else tags[k]
        n = -1
        if as_json and not labels:
            n = room_for(value)
            if n >= 0:
                n = -1 if room_for(key) < 0 else n + room_for(key)
        data = None
        while True:                 # once, or twice if a character has to be escaped
            if n < 0:
                data = encode(key, value, list(labels))
                n = len(data) - ROOM
                if len(data) > 0xFFFFFFFF:
                    raise ValueError(f"an entry takes {len(data)} bytes, but a dump holds at most 2**32 - 1 for each")
            if used + HEAD + n + ROOM > room:
                room = max(2 * room, used + HEAD + n + ROOM, 4096)
                PyByteArray_Resize(content, room)
            into = PyByteArray_AS_STRING(content) + used + HEAD
            if data is not None:
                n = len(data)
                memcpy(into, <const char*>data, n)
                break
            n = write_entry(into, key, value)
            if n > 0:
                break
            n = -1
        numbers_into(into - HEAD, <uint32_t>n, end, rank)
        used += HEAD + n
    PyByteArray_Resize(content, used)
