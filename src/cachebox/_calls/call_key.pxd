"""Call keys: the call `f(1, x=2)` as the key of its result.

If a function has a cache of its own, the key of a call with one positional argument is that argument itself. Any other
call has a `CallKey`. It is a flat tuple of a type of its own, with the items

    [function id]  [receiver]  arguments ...  [KEYWORDS  name value  name value ...]  [types of all arguments]

A lookup makes no key. Arguments are hashed where the interpreter put them, as the key would be hashed, and compared
with the items of the keys in the cache.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t, uint64_t

from cachebox._engine.table cimport (
    Table, candidate, candidate_nearby, hash_of, home, likely, plain_equal, short_equal, unlikely,
)
from cachebox._loading.fast_path cimport knows_hash
from cachebox._platform.lock cimport acquire
from cachebox.cache cimport Cache


cdef extern from *:
    """
    /* The object that a weak reference refers to, for comparisons. The caller owns a reference to the other object. */
    static inline PyObject *cb_referent(PyObject *reference)
    {
    #ifdef Py_GIL_DISABLED
        return (PyObject *)_Py_atomic_load_ptr_relaxed(&((PyWeakReference *)reference)->wr_object);
    #else
        return ((PyWeakReference *)reference)->wr_object;
    #endif
    }
    """
    PyObject* referent "cb_referent"(PyObject* reference) noexcept nogil
    PyTypeObject* type_of "Py_TYPE"(PyObject*) noexcept nogil
    PyObject* item_of "PyTuple_GET_ITEM"(PyObject*, Py_ssize_t) noexcept nogil
    Py_ssize_t size_of_tuple "PyTuple_GET_SIZE"(PyObject*) noexcept nogil


cdef struct Call:                   # borrows everything
    PyObject* function_id           # a str; NULL: the function has its own cache
    PyObject* receiver              # the instance that a method is called on, or NULL
    PyObject** arguments            # positional arguments, then the values of keywords
    Py_ssize_t n                    # number of positional arguments
    PyObject* names                 # names of keywords: a tuple, or NULL
    bint typed


cdef PyTypeObject* call_key         # the type CallKey
cdef PyTypeObject* receiver_type    # the type Receiver
cdef PyObject* KEYWORDS

cdef object key_of_call(const Call* call, object receiver)
cdef Py_hash_t (*try_hash_call)(const Call* call) noexcept      # `hash_call`; -1: an exception is set
cdef list keys_of_hash(Cache cache, Py_hash_t hashed)
cdef list keys_of_function(Cache cache, object function_id)
cdef int remember(object receiver, Py_hash_t hashed, Cache cache) except -1
cdef int watch_over(receiver) except -1


# --- hashing: the same for the arguments of a call and for the items of its key ---------------------------------------
# The hash is a sum of products with secret numbers, one for each place, in 128 bits that are folded to 64 (after the
# multilinear functions of Carter and Wegman). An attacker that does not know the numbers cannot find calls that
# collide. If items have equal hashes, as ints that are equal modulo 2^61 - 1, so have the calls. The products are
# independent of each other, so they overlap in the processor.

cdef extern from "_platform/portable.h" nogil:
    void add_product "cb_add_product"(uint64_t* low, uint64_t* high, uint64_t a, uint64_t b)

cdef enum:
    PLACES = 32
    KEYWORDS_HASH = 271828


cdef struct Mix:
    uint64_t low, high
    uint32_t place


cdef uint64_t* secrets              # PLACES numbers, and two for the beginning; made by this process


cdef inline void begin(Mix* m) noexcept nogil:
    m.low = secrets[PLACES]
    m.high = secrets[PLACES + 1]
    m.place = 0


cdef inline void mix(Mix* m, Py_hash_t lane) noexcept nogil:
    if unlikely(m.place == PLACES):         # all items so far become one item of the next round
        lane = <Py_hash_t>((m.low ^ m.high) + <uint64_t>lane * secrets[0])
        begin(m)
    add_product(&m.low, &m.high, <uint64_t>lane, secrets[m.place])
    m.place += 1


cdef inline Py_hash_t finish(const Mix* m, Py_ssize_t n) noexcept nogil:
    cdef uint64_t folded = (m.low ^ m.high) + <uint64_t>n
    return <Py_hash_t>folded if folded != <uint64_t>-1 else 1


cdef inline Py_hash_t address_hash(PyObject* instance) noexcept nogil:
    return <Py_hash_t>(<size_t>instance >> 4)


cdef inline Py_hash_t hash_argument(const Call* call, Py_ssize_t k) except? -1:
    if call.arguments[k] == call.receiver:
        return address_hash(call.receiver)
    return hash_of(call.arguments[k])


cdef inline Py_ssize_t keywords_of(const Call* call) noexcept nogil:
    """How many arguments are keywords."""
    return size_of_tuple(call.names) if call.names != NULL else 0


cdef inline Py_ssize_t length(const Call* call) noexcept nogil:
    """How many items the key of a call has."""
    cdef Py_ssize_t keywords = keywords_of(call), n = call.n
    if keywords:
        n += 1 + 2 * keywords
    if call.typed:
        n += call.n + keywords
    return n + (call.function_id != NULL) + (call.receiver != NULL)


cdef inline Py_hash_t hash_call(const Call* call) except? -1:
    cdef Mix m
    cdef Py_ssize_t k, keywords = keywords_of(call)
    begin(&m)
    if call.function_id != NULL:
        mix(&m, hash_of(call.function_id))
    if call.receiver != NULL:
        mix(&m, address_hash(call.receiver))
    for k in range(call.n):
        mix(&m, hash_argument(call, k))
    if keywords:
        mix(&m, KEYWORDS_HASH)
        for k in range(keywords):
            mix(&m, hash_of(item_of(call.names, k)))
            mix(&m, hash_argument(call, call.n + k))
    if call.typed:
        for k in range(call.n + keywords):
            mix(&m, hash_of(<PyObject*>type_of(call.arguments[k])))
    return finish(&m, length(call))


# --- comparing --------------------------------------------------------------------------------------------------------

cdef inline int same(const Call* call, PyObject* argument, PyObject* item) noexcept:
    """Whether an item of a key stands for an argument. 1: yes, 0: no, -1: only `==` can tell."""
    if item == argument:
        return 1
    if argument == call.receiver:
        return type_of(item) == receiver_type and referent(item) == argument
    return 1 if short_equal(item, argument) else plain_equal(item, argument)


cdef inline int matches(const Call* call, PyObject* key) noexcept:
    """Whether a key is that of the call. 1: yes, 0: no, -1: only `==` can tell."""
    cdef Py_ssize_t k, at = 0, keywords = keywords_of(call)
    cdef int equal, all_equal = 1
    if type_of(key) != call_key or size_of_tuple(key) != length(call):
        return 0
    if call.function_id != NULL:
        if item_of(key, 0) != call.function_id and plain_equal(item_of(key, 0), call.function_id) <= 0:
            return 0
        at = 1
    if call.receiver != NULL:
        if same(call, call.receiver, item_of(key, at)) <= 0:
            return 0
        at += 1
    for k in range(call.n):
        equal = same(call, call.arguments[k], item_of(key, at))
        if equal != 1:
            if equal == 0:
                return 0
            all_equal = -1
        at += 1
    if keywords:
        if item_of(key, at) != KEYWORDS:
            return 0
        at += 1
        for k in range(keywords):
            if item_of(key, at) != item_of(call.names, k):
                equal = plain_equal(item_of(key, at), item_of(call.names, k))
                if equal != 1:
                    if equal == 0:
                        return 0
                    all_equal = -1
            equal = same(call, call.arguments[call.n + k], item_of(key, at + 1))
            if equal != 1:
                if equal == 0:
                    return 0
                all_equal = -1
            at += 2
    if call.typed:
        for k in range(call.n + keywords):
            if item_of(key, at) != <PyObject*>type_of(call.arguments[k]):
                return 0
            at += 1
    return all_equal


# --- the fast path, for arguments whose hashes are known; see `fast_path.pxd` -----------------------------------------

cdef inline bint knows_hash_of_call(const Call* call, Py_hash_t* hashed) noexcept nogil:
    """Whether `hash_call` needs no Python call; if so, sets the hash. For a call without function id and types."""
    cdef Mix m
    cdef Py_hash_t known
    cdef Py_ssize_t k, keywords = keywords_of(call)
    begin(&m)
    if call.receiver != NULL:
        mix(&m, address_hash(call.receiver))
    for k in range(call.n):
        if unlikely(call.arguments[k] == call.receiver or not knows_hash(call.arguments[k], &known)):
            return False
        mix(&m, known)
    if keywords:
        mix(&m, KEYWORDS_HASH)
        for k in range(keywords):
            if unlikely(not knows_hash(item_of(call.names, k), &known)):
                return False
            mix(&m, known)
            if unlikely(call.arguments[call.n + k] == call.receiver):
                return False
            if unlikely(not knows_hash(call.arguments[call.n + k], &known)):
                return False
            mix(&m, known)
    hashed[0] = finish(&m, length(call))
    return True


cdef inline bint is_same(const Call* call, Py_ssize_t least, PyObject* key) noexcept nogil:
    """Whether a key holds the call's very arguments. For a call without function id, types and keywords."""
    cdef Py_ssize_t k, at = call.receiver != NULL
    if type_of(key) != call_key or size_of_tuple(key) != call.n + at:
        return False
    if at and (type_of(item_of(key, 0)) != receiver_type or referent(item_of(key, 0)) != call.receiver):
        return False
    for k in range(least):
        if item_of(key, at + k) != call.arguments[k]:
            return False
    k = least
    while k < call.n:
        if item_of(key, at + k) != call.arguments[k]:
            return False
        k += 1
    return True


cdef inline bint mix_known(Mix* m, const Call* call, Py_ssize_t k) noexcept nogil:
    """`mix` the hash of argument k. False: that takes a Python call."""
    cdef Py_hash_t known
    if unlikely(call.receiver != NULL and call.arguments[k] == call.receiver):
        return False
    if unlikely(not knows_hash(call.arguments[k], &known)):
        return False
    mix(m, known)
    return True


cdef inline bint knows_hash_of_arguments(const Call* call, Py_ssize_t least, Py_hash_t* hashed) noexcept nogil:
    """Whether `hash_call` needs no Python call; if so, sets the hash.

    The call has no function id, types or keywords. It has at least `least` arguments. `least` is a constant, so the loop
    over them is unrolled.
    """
    cdef Mix m
    cdef Py_ssize_t k
    begin(&m)
    if call.receiver != NULL:
        mix(&m, address_hash(call.receiver))
    for k in range(least):
        if not mix_known(&m, call, k):
            return False
    k = least
    while k < call.n:
        if not mix_known(&m, call, k):
            return False
        k += 1
    hashed[0] = finish(&m, call.n + (call.receiver != NULL))
    return True


cdef inline bint find_call_at_once(
    PyObject* cache, const Call* call, Py_ssize_t least, uint64_t h, uint32_t* i
) noexcept:
    """`find_at_once` for a call: whether its key holds these very arguments. Sets its index. Takes the lock."""
    cdef const Table* t = (<Cache>cache).table
    acquire((<Cache>cache).lock)
    i[0] = candidate_nearby(t, h)
    return 0 < i[0] <= t.mask and t.entries[i[0]].hash == <uint32_t>h and is_same(call, least, t.entries[i[0]].key)


cdef inline bint knows_hash_of_pair(PyObject* first, PyObject* second, Py_hash_t* hashed) noexcept nogil:
    """`knows_hash_of_arguments` for a call with two arguments."""
    cdef Mix m
    cdef Py_hash_t known, other
    if unlikely(not knows_hash(first, &known) or not knows_hash(second, &other)):
        return False
    begin(&m)
    mix(&m, known)
    mix(&m, other)
    hashed[0] = finish(&m, 2)
    return True


cdef inline bint find_pair_at_once(
    PyObject* cache, PyObject* first, PyObject* second, uint64_t h, uint32_t* i
) noexcept:
    """`find_call_at_once` for a call with two arguments; the second may be another object with equal text."""
    cdef const Table* t = (<Cache>cache).table
    cdef PyObject* key
    acquire((<Cache>cache).lock)
    i[0] = candidate_nearby(t, h)
    if not 0 < i[0] <= t.mask or t.entries[i[0]].hash != <uint32_t>h:
        return False
    key = t.entries[i[0]].key
    return (
        type_of(key) == call_key and size_of_tuple(key) == 2 and item_of(key, 0) == first
        and (item_of(key, 1) == second or short_equal(item_of(key, 1), second))
    )


cdef inline bint is_call_at(PyObject* cache, const Call* call, uint64_t h, uint32_t i) noexcept:
    """Whether entry i, which `find_call_at_once` set, has the call's key after all. Needs the lock."""
    cdef const Table* t = (<Cache>cache).table
    return 0 < i <= t.mask and t.entries[i].hash == <uint32_t>h and matches(call, t.entries[i].key) == 1


cdef inline uint32_t find_call_quickly(PyObject* cache, const Call* call, uint64_t h) noexcept:
    """The index of a call's key. 0: there is none, or only `==` can tell. Needs the lock."""
    cdef const Table* t = (<Cache>cache).table
    cdef uint32_t slot, i
    cdef int equal
    slot = home(t, h)
    while True:
        i = candidate(t, h, &slot)
        if i == 0:
            return 0
        if likely(t.entries[i].hash == <uint32_t>h):
            equal = matches(call, t.entries[i].key)
            if equal != 0:
                return i if equal > 0 else 0
        slot = (slot + 1) & t.mask


cdef PyObject* get_call(PyObject* cache, const Call* call, uint64_t h) except? NULL
