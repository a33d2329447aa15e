"""Calls as keys; `calls.pxd` shows their shape."""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t, uint64_t

from _weakref import ref

from cachebox._engine.table cimport Table, candidate, hash_of, home, mixed, plain_equal
from cachebox.cache cimport Cache
from cachebox.lock cimport acquire, release


cdef extern from *:
    """
    /* A new CallKey with room for `size` items; tuple's own constructor wants an iterable. */
    #define cb_new_key(type, size) ((PyTypeObject *)(type))->tp_alloc((PyTypeObject *)(type), size)
    #define cb_put_item(key, at, item) PyTuple_SET_ITEM(key, at, Py_NewRef(item))
    """
    object new_key "cb_new_key"(object type, Py_ssize_t size)
    void put_item "cb_put_item"(object key, Py_ssize_t at, PyObject* item)


cdef class _Keywords:
    """What separates positional arguments from keywords in a key."""

    def __hash__(self):
        return KEYWORDS_HASH

    def __eq__(self, other):
        return self is other

    def __repr__(self):
        return "KEYWORDS"

    def __reduce__(self):
        return "keywords"


keywords = _Keywords()
KEYWORDS = <PyObject*>keywords


class Receiver(ref):
    """The instance whose method was called, held weakly. It stands for it in keys: equal to nothing but itself."""

    __slots__ = ("address", "cache", "hashes", "id", "known", "limit")

    def __hash__(self):
        return self.address

    def __eq__(self, other):
        return self is other

    def __ne__(self, other):
        return self is not other


class Member:
    """The same for an instance that takes no weak reference, and lives as long as its class: held strongly."""

    __slots__ = ("hashes", "instance", "limit")

    def __init__(self, instance):
        self.instance = instance
        self.hashes = set()
        self.limit = 64

    def __call__(self):
        return self.instance

    def __reduce__(self):
        raise TypeError(f"cannot pickle the key of a call on {self.instance!r}")


class CallKey(tuple):
    """The key of a call. A tuple of the same items is another key."""

    __slots__ = ()

    def __hash__(self):
        return hash_key(self)

    def __eq__(self, other):
        return type(other) is CallKey and tuple.__eq__(self, other)

    def __ne__(self, other):
        return not self == other

    def __repr__(self):
        return f"CallKey{tuple.__repr__(self)}"


call_key = <PyTypeObject*>CallKey
receiver_type = <PyTypeObject*>Receiver


cdef object hash_key(object key):
    cdef uint64_t sum = PRIME_5, factor = PRIME_1
    for item in <tuple>key:
        mix(&sum, &factor, hash_of(<PyObject*>item))
    return finish(sum, len(<tuple>key))


cdef object key_of_call(const Call* call, object receiver):
    """The key of a call; `receiver` is the Receiver for its instance, if it has one."""
    cdef Py_ssize_t k, at = 0, keywords = keywords_of(call)
    cdef object key = new_key(CallKey, length(call))
    cdef PyObject* value
    if call.token != NULL:
        put_item(key, at, call.token)
        at += 1
    if call.receiver != NULL:
        put_item(key, at, <PyObject*>receiver)
        at += 1
    for k in range(call.n):
        put_item(key, at, <PyObject*>receiver if call.arguments[k] == call.receiver else call.arguments[k])
        at += 1
    if keywords:
        put_item(key, at, KEYWORDS)
        at += 1
        for k in range(keywords):
            value = call.arguments[call.n + k]
            put_item(key, at, item_of(call.names, k))
            put_item(key, at + 1, <PyObject*>receiver if value == call.receiver else value)
            at += 2
    if call.typed:
        for k in range(call.n + keywords):
            put_item(key, at, <PyObject*>type_of(call.arguments[k]))
            at += 1
    return key


# --- finding keys: live entries, and those that are being loaded ------------------------------------------------------

cdef list keys_of_hash(Cache cache, Py_hash_t hashed):
    """The keys in a cache that have that hash. O(1) expected."""
    cdef Table* t = cache.table
    cdef uint32_t h = mixed(t, hashed), slot, i
    cdef list keys = []
    acquire(cache.lock)
    try:
        slot = home(t, h)
        while True:
            i = candidate(t, h, &slot)
            if i == 0:
                break
            if t.entries[i].hash == h:
                keys.append(<object>t.entries[i].key)
            slot = (slot + 1) & t.mask
    finally:
        release(cache.lock)
    return keys


cdef list keys_of_token(Cache cache, object token):
    """The keys in a cache of one function's calls. O(n)."""
    cdef Table* t = cache.table
    cdef PyObject* wanted = <PyObject*>token
    cdef PyObject* key
    cdef uint32_t i
    cdef list keys = []
    acquire(cache.lock)
    try:
        for i in range(1, t.fresh):
            key = t.entries[i].key
            if key != NULL and type_of(key) == call_key and size_of_tuple(key):
                if item_of(key, 0) == wanted or plain_equal(item_of(key, 0), wanted) > 0:
                    keys.append(<object>key)
    finally:
        release(cache.lock)
    return keys
