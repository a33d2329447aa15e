"""Call keys; `call_key.pxd` shows their shape."""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t, uint64_t

import gc
import os
from _weakref import ref

from cachebox._engine.table cimport (
    Table, candidate, decref, hash_of, home, incref, likely, mixed, plain_equal, rest_differs, try_equal, unlikely,
)
from cachebox._loading.fast_path cimport try_hit
from cachebox._platform.lock cimport acquire, release
from cachebox.cache cimport Cache


cdef extern from *:
    """
    /* A new CallKey with room for `size` items. The constructor of tuple needs an iterable. */
    #define cb_new_key(type, size) ((PyTypeObject *)(type))->tp_alloc((PyTypeObject *)(type), size)
    #define cb_put_item(key, at, item) PyTuple_SET_ITEM(key, at, Py_NewRef(item))

    /* `CallKey.__eq__` without a Python call. */
    static PyObject *
    cb_compare_keys(PyObject *a, PyObject *b, int operation)
    {
        if ((operation == Py_EQ || operation == Py_NE) && Py_TYPE(a) != Py_TYPE(b)) {
            return Py_NewRef(operation == Py_NE ? Py_True : Py_False);
        }
        return PyTuple_Type.tp_richcompare(a, b, operation);
    }

    #define cb_compare_quickly(type) (((PyTypeObject *)(type))->tp_richcompare = cb_compare_keys)
    """
    void compare_quickly "cb_compare_quickly"(object type)
    object new_key "cb_new_key"(object type, Py_ssize_t size)
    void put_item "cb_put_item"(object key, Py_ssize_t at, PyObject* item)


cdef bytes random_bytes = os.urandom((PLACES + 2) * sizeof(uint64_t))
secrets = <uint64_t*><char*>random_bytes


cdef class _Keywords:
    """Separates positional arguments from keywords in a key."""

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
    """The object on which a method was called, held weakly. It stands for it in keys, and equals only itself."""

    __slots__ = ("address", "cache", "hashes", "id", "known", "limit")

    def __hash__(self):
        return self.address

    def __eq__(self, other):
        return self is other

    def __ne__(self, other):
        return self is not other


class Member:
    """A receiver that allows no weak reference and lives as long as its class, held strongly."""

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
    """The key of a call. It does not equal a plain tuple of the same items."""

    __slots__ = ()

    def __hash__(self):
        return hash_key(self)

    def __eq__(self, other):
        return type(other) is CallKey and tuple.__eq__(self, other)

    def __ne__(self, other):
        return not self == other

    def __repr__(self):
        return f"CallKey{tuple.__repr__(self)}"


compare_quickly(CallKey)
call_key = <PyTypeObject*>CallKey
receiver_type = <PyTypeObject*>Receiver


cdef Py_hash_t hash_described(const Call* call) except? -1:
    return hash_call(call)


ctypedef Py_hash_t (*TryHashCall)(const Call* call) noexcept
try_hash_call = <TryHashCall>hash_described


cdef object hash_key(object key):
    cdef Mix m
    begin(&m)
    for item in <tuple>key:
        mix(&m, hash_of(<PyObject*>item))
    return finish(&m, len(<tuple>key))


cdef object key_of_call(const Call* call, object receiver):
    """The key of a call. `receiver` is the Receiver that stands for its object, or None."""
    cdef Py_ssize_t k, at = 0, keywords = keywords_of(call)
    cdef object key = new_key(CallKey, length(call))
    cdef PyObject* value
    if call.function_id != NULL:
        put_item(key, at, call.function_id)
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


# --- finding calls ----------------------------------------------------------------------------------------------------

cdef PyObject* get_call(PyObject* cache, const Call* call, uint64_t h) except? NULL:
    """A hit: a new reference to the result of a call. NULL without an exception: a miss, or not so simple.

    Arguments are compared by `==` if need be, which runs without the lock.
    """
    cdef Table* t = (<Cache>cache).table
    cdef PyObject* key
    cdef PyObject* value
    cdef uint32_t slot = home(t, h), i
    cdef uint64_t version
    cdef int equal
    acquire((<Cache>cache).lock)
    while True:
        i = candidate(t, h, &slot)
        if i == 0:
            release((<Cache>cache).lock)
            return NULL
        if likely(t.entries[i].hash == <uint32_t>h):
            key = t.entries[i].key
            equal = matches(call, key)
            if equal < 0 and not rest_differs(t, i, h):
                version = t.version
                incref(key)                     # and so to all its items
                release((<Cache>cache).lock)
                equal = matches_by_comparing(call, key)
                if unlikely(equal < 0):
                    decref(key)
                    return NULL
                acquire((<Cache>cache).lock)
                if unlikely(t.version != version) and not (equal and i < t.fresh and t.entries[i].key == key):
                    release((<Cache>cache).lock)
                    decref(key)
                    return NULL
                decref(key)                     # not the last reference: the entry has one
            if equal > 0:
                break
        slot = (slot + 1) & t.mask
    value = try_hit(cache, i)
    release((<Cache>cache).lock)
    return value


cdef int matches_by_comparing(const Call* call, PyObject* key) noexcept:
    """`matches` for what only `==` can tell. -1: an exception is set."""
    cdef Py_ssize_t k, at = (call.function_id != NULL) + (call.receiver != NULL)
    cdef int equal
    for k in range(call.n):
        equal = compares_equal(call, call.arguments[k], item_of(key, at))
        if equal != 1:
            return equal
        at += 1
    at += 1
    for k in range(keywords_of(call)):
        if item_of(key, at) != item_of(call.names, k):
            equal = try_equal(item_of(key, at), item_of(call.names, k))
            if equal != 1:
                return equal
        equal = compares_equal(call, call.arguments[call.n + k], item_of(key, at + 1))
        if equal != 1:
            return equal
        at += 2
    return 1


cdef inline int compares_equal(const Call* call, PyObject* argument, PyObject* item) noexcept:
    if argument == call.receiver or argument == item:
        return 1                                # `matches` has compared the receivers
    return try_equal(item, argument)


# --- finding keys, of live entries and of loads in progress -----------------------------------------------------------

cdef list keys_of_hash(Cache cache, Py_hash_t hashed):
    """The keys in a cache with that hash. O(1) expected."""
    cdef Table* t = cache.table
    cdef uint64_t h = mixed(t, hashed)
    cdef uint32_t slot, i
    cdef list keys = []
    acquire(cache.lock)
    try:
        slot = home(t, h)
        while True:
            i = candidate(t, h, &slot)
            if i == 0:
                break
            if t.entries[i].hash == <uint32_t>h:
                keys.append(<object>t.entries[i].key)
            slot = (slot + 1) & t.mask
    finally:
        release(cache.lock)
    return keys


cdef list keys_of_function(Cache cache, object function_id):
    """The keys in a cache of one function's calls. O(n)."""
    cdef Table* t = cache.table
    cdef PyObject* wanted = <PyObject*>function_id
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


# --- the results of methods -------------------------------------------------------------------------------------------

cdef int remember(object receiver, Py_hash_t hashed, Cache cache) except -1:
    """Note that a receiver has a result with that hash, so that the result is removed when the receiver dies.

    Hashes are noted, not keys, because a key would keep its arguments alive after its eviction. When the hashes have
    doubled in number, those without an entry are dropped. Any thread may add a hash at any time, after it has stored
    the entry. So a hash is dropped first; if it has an entry after all, it is added again.
    """
    hashes = receiver.hashes
    if len(hashes) >= receiver.limit:
        for old in list(hashes):
            hashes.discard(old)
            if keys_of_hash(cache, old):
                hashes.add(old)
        receiver.limit = max(64, 2 * len(hashes))
    hashes.add(hashed)
    return 0


cdef list finalized = []                # receivers whose objects were finalised before the first call

cdef int watch_over(receiver) except -1:
    """Check after each collection whether a receiver has died.

    Newer collectors clear a weak reference that was made while its object was being finalised, without its callback.
    """
    finalized.append(receiver)
    if forget_finalized not in gc.callbacks:
        gc.callbacks.append(forget_finalized)
    return 0


def forget_finalized(phase, info):
    if phase != "stop":
        return
    alive = []
    try:
        while finalized:
            receiver = finalized.pop()
            if receiver() is None:
                forget_receiver(receiver)
            else:
                alive.append(receiver)          # it was revived, or is in an older generation
    finally:
        finalized.extend(alive)


def forget_receiver(receiver):
    """Remove the results of a receiver that is about to die."""
    if receiver.known.get(receiver.id) is receiver:
        del receiver.known[receiver.id]
    cache = receiver.cache()
    failure = None
    if cache is not None:
        for hashed in receiver.hashes:
            for key in keys_of_hash(cache, hashed):
                if type(key) is CallKey and any([item is receiver for item in (<tuple>key)[:2]]):
                    try:
                        cache.delete(key)
                    except BaseException as error:      # a callback's KeyboardInterrupt must not keep the others
                        failure = error
    if failure is not None:
        raise failure
