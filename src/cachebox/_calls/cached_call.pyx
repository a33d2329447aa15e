"""Calls of cached functions, as far as `entry_points` leaves them to others; see `cached_call.pxd`."""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t, uint64_t

from _weakref import ref

from cachebox._calls.call_key cimport (
    Call, find_call_quickly, get_call, hash_call, key_of_call, knows_hash_of_call, likely, remember, try_hash_call,
    type_of, unlikely, watch_over,
)
from cachebox._calls.key_arguments cimport Arguments, drop
from cachebox._engine.table cimport hash_of, take_over
from cachebox._loading.fast_path cimport (
    find_at_once, find_quickly, get_equal, go_on, is_plain_hit, knows_hash, mixed_in, search_and_use, take_hit,
)
from cachebox._loading.fetch cimport PASSED, RETURNED, STORED, LoadSpec, fetch, is_awaitable
from cachebox._loading.flight cimport PENDING, Flight
from cachebox._loading.refresh cimport Refresh, find_servable, flight_of, open_refresh
from cachebox._platform.caught cimport raise_current
from cachebox._platform.lock cimport acquire, release
from cachebox.cache cimport Cache

from cachebox._calls.call_key import Member, Receiver, forget_receiver
from cachebox._calls.methods import is_lasting
from cachebox._calls.returned_awaitables import load_begun
from cachebox._platform.awaitables import refuse_awaitable, warn_of_one_shot


cdef extern from *:
    bint is_class "PyType_Check"(PyObject*) noexcept
    bint is_finalized "PyObject_GC_IsFinalized"(object) noexcept
    PyObject* new_reference "Py_NewRef"(object)
    PyObject* vectorcall "PyObject_Vectorcall"(PyObject*, PyObject**, size_t, PyObject*) except NULL

cdef extern from "_platform/results.h":
    uint32_t version_of "cb_version_of"(PyTypeObject*) noexcept
    bint is_heap_type "cb_is_heap_type"(PyTypeObject*) noexcept


no_key = object()
NO_KEY = <PyObject*>no_key


class HasNoKey(TypeError):
    """A call on an object that allows no weak reference, so that its results could not be removed when it dies."""


cdef class CachedCall:

    def __cinit__(self, function, Cache cache not None, **options):
        self.function = function                # needed by other methods, whether or not __init__ is called
        self._cache = cache
        self.parameters = {}
        self.receivers = {}
        self.members = {}

    # --- calling -----------------------------------------------------------------------------------------------------

    cdef PyObject* call(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL:
        """Any call: a new reference to its result."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef PyObject* value
        cdef PyObject* single_arg
        cdef bint compared
        if self.key_arguments is not None:
            return self.call_selected(args, n, names, as_method and self.by_instance)
        self.describe(&call, args, n, names)
        if self.key_func is not None:
            key = take_over(vectorcall(<PyObject*>self.key_func, args, n, names))
            single_arg = <PyObject*>key
            if unlikely(is_awaitable(single_arg)):
                refuse_awaitable("key_func", key)
            hashed = hash_of(single_arg)
            value = get_equal(
                <PyObject*>self._cache, single_arg, mixed_in(<PyObject*>self._cache, hashed), &compared
            )
            if value != NULL:
                return self.hit(value)
            if n != 0 and is_class(args[0]):
                self.receives(args, n, names)   # a class method must learn its class: see `is_received`
            return self.miss(key, hashed, args, n, names, None)
        if not as_method and self.asks_classes and self.receives(args, n, names):
            return self.call_received(args, n, names)
        if as_method:
            if n == 0 or not takes_weak_references(args[0]):
                return self.call_unreceived(args, n, names)
            call.receiver = args[0]
            call.arguments += 1
            call.n -= 1
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):
            self.explain(args, n, names, as_method)
        value = get_call(<PyObject*>self._cache, &call, mixed_in(<PyObject*>self._cache, hashed))
        if value != NULL:
            return self.hit(value)
        receiver = self.receiver_of(<object>call.receiver, False) if call.receiver != NULL else None
        return self.miss(key_of_call(&call, receiver), hashed, args, n, names, receiver)

    cdef PyObject* call_selected(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except NULL:
        """Any call, if the key leaves out or changes arguments."""
        cdef Arguments taken
        cdef Call call
        cdef Py_hash_t hashed = 0
        cdef PyObject* value
        cdef bint is_heaped = not as_method and self.asks_classes and n != 0 and is_heap_type(type_of(args[0]))
        receiver = None
        if unlikely(is_heaped and self.receives(args, n, names)):
            return self.call_received(args, n, names)
        if unlikely(as_method and (n == 0 or not takes_weak_references(args[0]))):
            return self.call_unreceived(args, n, names)
        if not self.key_arguments.take(args, n, names, as_method, &taken):
            return vectorcall(<PyObject*>self.function, args, n, names)     # it will say what is wrong with them
        try:
            self.describe(&call, taken.items, taken.n, taken.names)
            if as_method:
                call.receiver = args[0]
            value = self.find_selected(&call, &hashed, args, n, names, as_method)
            if value != NULL:
                return self.hit(value)
            if as_method:
                receiver = self.receiver_of(<object>args[0], False)
            if call.receiver == NULL and is_single_arg(self, taken.items, taken.n, taken.names):
                key = <object>taken.items[0]
            else:
                key = key_of_call(&call, receiver)
        finally:
            drop(&taken)
        return self.miss(key, hashed, args, n, names, receiver)

    cdef PyObject* find_selected(
        self, const Call* call, Py_hash_t* hashed, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method
    ) except? NULL:
        """A hit: a new reference to the value. NULL: a miss."""
        cdef PyObject* cache = <PyObject*>self._cache
        cdef uint32_t i
        cdef uint64_t h
        cdef bint compared
        if call.receiver == NULL and is_single_arg(self, call.arguments, call.n, call.names):
            if knows_hash(call.arguments[0], hashed):
                h = mixed_in(cache, hashed[0])
                if likely(find_at_once(cache, call.arguments[0], h, &i) and is_plain_hit(cache, i)):
                    return take_hit(cache, i)
                return search_and_use(cache, call.arguments[0], h, i, &compared)
            hashed[0] = try_hash(call.arguments[0])
            if unlikely(hashed[0] == -1):
                self.explain(args, n, names, as_method)
            return get_equal(cache, call.arguments[0], mixed_in(cache, hashed[0]), &compared)
        if call.function_id == NULL and not call.typed and knows_hash_of_call(call, hashed):
            acquire((<Cache>cache).lock)
            i = find_call_quickly(cache, call, mixed_in(cache, hashed[0]))
            if likely(i != 0 and is_plain_hit(cache, i)):
                return take_hit(cache, i)
            release((<Cache>cache).lock)
        else:
            hashed[0] = try_hash_call(call)
            if unlikely(hashed[0] == -1):
                self.explain(args, n, names, as_method)
        return get_call(cache, call, mixed_in(cache, hashed[0]))

    cdef int explain(self, PyObject** args, Py_ssize_t n, PyObject* names, bint as_method) except -1:
        """Raise the exception of hashing a call. For an unhashable argument, say its name and what to do."""
        cdef Py_ssize_t k
        try:
            raise_current()
        except TypeError as error:
            if self.functools_rules:
                raise                           # with the text of functools
            from cachebox._calls.unhashable import explained

            arguments = [<object>args[k] for k in range(n)]
            keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
            better = explained(self.function, arguments, keywords, error, as_method, self.key_arguments)
            if better is None:
                raise
            raise better from error
        return 0

    cdef PyObject* miss_call(
        self, PyObject** args, Py_ssize_t n, PyObject* names, Py_hash_t hashed, bint as_method
    ) except NULL:
        """The result of a call that the fast path did not find."""
        cdef Call call
        receiver = None
        self.describe(&call, args, n, names)
        if as_method:
            receiver = self.receiver_of(<object>args[0], False)
            call.receiver = args[0]
            call.arguments += 1
            call.n -= 1
        return self.miss(key_of_call(&call, receiver), hashed, args, n, names, receiver)

    cdef void describe(self, Call* call, PyObject** args, Py_ssize_t n, PyObject* names) noexcept:
        call.function_id = <PyObject*>self.function_id if self.function_id is not None else NULL
        call.receiver = NULL
        call.arguments = args
        call.n = n
        call.names = names
        call.typed = self.typed

    cdef PyObject* hit(self, PyObject* value) except NULL:
        """The result of a call whose value was there; takes over the reference."""
        if self.function_id is not None:
            count(&self.hits)
        if self.ready is None:
            return value
        return new_reference(self.ready(take_over(value)))

    cdef PyObject* miss(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except NULL:
        """The result of a call that the fast path did not find, by its key."""
        cdef LoadSpec spec
        cdef PyObject* found
        if receiver is None and self.asks_classes and self.receives(args, n, names):
            return self.call_received(args, n, names)
        if self.serves:
            found = self.serve(key, hashed, args, n, names, receiver)
            if found != NULL:
                return self.hit(found)
        if self.load_async is not None:
            return new_reference(self.begin(self.load_async, key, hashed, args, n, names, receiver))
        self.prepare(&spec)
        spec.arguments = args
        spec.n = n
        spec.names = names
        spec.instance = args[0] if receiver is not None else NULL
        if receiver is None and self.function_id is None:
            value = fetch(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), &spec)
            if unlikely(spec.single_use == PASSED):
                return self.passed(value, key, hashed, args, n, names, receiver, False)
            return new_reference(value)
        try:
            value = fetch(self._cache, key, mixed_in(<PyObject*>self._cache, hashed), &spec)
            if spec.single_use == PASSED:
                return self.passed(value, key, hashed, args, n, names, receiver, False)
            return new_reference(value)
        finally:
            if receiver is not None:
                remember(receiver, hashed, self._cache)
            if self.function_id is not None and spec.missed >= 0:
                count(&self.misses if spec.missed else &self.hits)

    cdef PyObject* serve(
        self, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except? NULL:
        """A new reference to a result that may be served although it is due for a refresh or has expired.

        It is counted in the cache's statistics. NULL: there is none.
        """
        cdef uint64_t h = mixed_in(<PyObject*>self._cache, hashed)
        cdef PyObject* value
        cdef bint due, joined = False
        cdef Flight flight
        while True:
            value = find_servable(self._cache, key, h, self.ahead, self.stale, &due)
            if value != NULL or joined or self.load_async is not None:  # a coroutine waits by itself
                break
            flight = flight_of(self._cache, key)
            if flight is None or flight.wait() == PENDING:
                break
            joined = True
        if value == NULL:
            return NULL
        result = take_over(value)
        if due:
            self.start_refresh(key, h, args, n, names, receiver)
        return new_reference(self._cache.copy_of(result))

    cdef int start_refresh(
        self, object key, uint64_t h, PyObject** args, Py_ssize_t n, PyObject* names, object receiver
    ) except -1:
        """Refresh this call in the background, unless a refresh is in progress."""
        cdef Py_ssize_t k
        cdef Refresh refresh = open_refresh(self._cache, key, h, self.ahead, True)
        if refresh is None:
            return 0
        try:
            from cachebox._calls.refresh_call import RefreshCall

            arguments = tuple([<object>args[k] for k in range(n)])
            keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
            started = RefreshCall(self, refresh, arguments, keywords, receiver).start(self.load_async is not None)
        except:
            refresh.end()
            raise
        if not started:
            refresh.end()
        return 0

    cdef object begin(
        self, object load_async, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names,
        object receiver,
    ):
        """A coroutine that returns the value of a call."""
        cdef Py_ssize_t k
        arguments = tuple([<object>args[k] for k in range(n)])
        keywords = {name: <object>args[n + k] for k, name in enumerate(<object>names)} if names != NULL else {}
        coroutine = load_async(self, key, hashed, arguments, keywords, receiver)
        name = getattr(self, "__qualname__", None)
        if isinstance(name, str):
            coroutine.__qualname__ = name                   # for warnings, and for a look at a task
        return coroutine

    cdef PyObject* passed(
        self, object value, object key, Py_hash_t hashed, PyObject** args, Py_ssize_t n, PyObject* names, object receiver,
        bint anew,
    ) except NULL:
        """The result of a call that can be consumed only once. A function that returned an awaitable is async."""
        if not is_awaitable(<PyObject*>value):
            self._report(value)
            return new_reference(value)
        if self.load_async is None:
            self.become_async()

        def go_on(wrapper, key, hashed, arguments, keywords, receiver):
            return load_begun(wrapper, value, key, hashed, arguments, keywords, receiver, anew)

        return new_reference(self.begin(go_on, key, hashed, args, n, names, receiver))

    cdef int become_async(self) except -1:
        """Return coroutines from now on."""
        raise NotImplementedError

    def _report(self, value):
        """Warn once that results can be consumed only once."""
        if not self.warned:
            self.warned = True
            warn_of_one_shot(getattr(self, "__qualname__", repr(self.function)), value)

    cdef int prepare(self, LoadSpec* spec) except -1:
        spec.function = <PyObject*>self.function
        spec.lifetime = self.lifetime
        spec.ttl_of = <PyObject*>self.ttl_of if self.ttl_of is not None else NULL
        spec.condition = <PyObject*>self.condition if self.condition is not None else NULL
        spec.tags = <PyObject*>self.tags if self.tags is not None else NULL
        spec.failures = <PyObject*>self.failures if self.failures is not None else NULL
        spec.single_flight = self.single_flight
        spec.single_use = STORED if self.functools_rules else RETURNED
        spec.functools_rules = self.functools_rules
        spec.keep_first = self.keep_first
        spec.missed = -1
        return 0

    # --- methods that other decorators hide
    # -------------------------------------------------------------------------------

    cdef bint receives(self, PyObject** args, Py_ssize_t n, PyObject* names) except -1:
        """Whether the first argument is the receiver, though this was called as a plain function.

        The class of the first argument tells, once in each of its states: see `methods`.
        """
        cdef PyObject* first
        cdef PyTypeObject* owner
        cdef uint32_t version
        cdef uint64_t known
        cdef bint of_class
        if n != 0:
            first = args[0]
        elif names != NULL and self.first_name is not None:
            first = NULL
            for k, name in enumerate(<object>names):
                if name == self.first_name:
                    first = args[k]
            if first == NULL:
                return False
        else:
            return False
        of_class = is_class(first)
        owner = <PyTypeObject*>first if of_class else type_of(first)
        if not is_heap_type(owner):
            return False
        version = version_of(owner)
        if version != 0:
            known = self.known[version & 7] ^ ((<uint64_t>version * 2 + of_class) * 2)
            if known < 2:
                return known
        return self.ask_class(first, version)

    cdef bint ask_class(self, PyObject* first, uint32_t version) except -1:
        from cachebox.decorators import is_received

        cdef bint of_class = is_class(first), answer
        cdef PyTypeObject* owner = <PyTypeObject*>first if of_class else type_of(first)
        type.__getattribute__(<object>owner, "__doc__")     # a type gets its version when an attribute is looked up
        version = version_of(owner)
        answer = is_received(self, <object>first)
        if version != 0 and version == version_of(owner):
            self.known[version & 7] = (<uint64_t>version * 2 + of_class) * 2 + answer
        return answer

    cdef PyObject* call_received(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """The call of a method whose receiver is the first argument, or a keyword."""
        cdef tuple flat, rest
        if n != 0:
            return self.call(args, n, names, True)
        keywords = {name: <object>args[k] for k, name in enumerate(<object>names)}
        first = keywords.pop(self.first_name)
        flat, rest = (first, *keywords.values()), tuple(keywords)
        return self.call(items_of(flat), 1, <PyObject*>rest if rest else NULL, True)

    cdef PyObject* call_unreceived(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """The call of a method without a receiver in front that allows weak references."""
        if n == 0 and names != NULL and self.receives(args, n, names):
            return self.call_received(args, n, names)
        return self.call_uncached(args, n, names)

    cdef PyObject* call_lasting(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        """A call on an object that allows no weak reference, but needs none."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef PyObject* value
        cdef Py_ssize_t k, more = len(<object>names) if names != NULL else 0
        member = self.member_of(<object>args[0])
        cdef tuple flat = (member, *[<object>args[k] for k in range(1, n + more)])
        cdef tuple keywords
        self.describe(&call, items_of(flat), n, names)
        if self.key_arguments is not None:
            values = [<object>args[k] for k in range(n + more)]
            given = dict(zip(<object>names, values[n:])) if names != NULL else {}
            chosen = self.key_arguments.of(tuple(values[:n]), given, True)
            if chosen is None:
                return vectorcall(<PyObject*>self.function, args, n, names)
            varied, positional, given = chosen
            flat, keywords = (member, *varied, *positional, *given.values()), tuple(given)
            self.describe(
                &call, items_of(flat), 1 + len(varied) + len(positional), <PyObject*>keywords if keywords else NULL
            )
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):
            self.explain(args, n, names, True)
        value = get_call(<PyObject*>self._cache, &call, mixed_in(<PyObject*>self._cache, hashed))
        if value != NULL:
            return self.hit(value)
        return self.miss(key_of_call(&call, None), hashed, args, n, names, member)

    cdef object member_of(self, object instance):
        known = self.members.get(id(instance))
        return known if known is not None else self.members.setdefault(id(instance), Member(instance))

    cdef PyObject* call_uncached(self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL:
        if n != 0 and is_lasting(<object>args[0]):
            return self.call_lasting(args, n, names)
        self._cache.count_miss()
        if self.function_id is not None:
            count(&self.misses)
        if not self.warned and n != 0:
            self.warn_uncached(<object>args[0])
        return vectorcall(<PyObject*>self.function, args, n, names)

    cdef int warn_uncached(self, object instance) except -1:
        """Warn once why a method is not cached whose class was made by a tool."""
        if not self.warned:
            self.warned = True
            from cachebox.decorators import warn_of_slots

            warn_of_slots(self, instance)
        return 0

    # --- keys ---------------------------------------------------------------------------------------------------------

    cdef PyObject* find_nullary(self, PyObject** args) except NULL:
        """A call without arguments: its key is a known object."""
        cdef PyObject* cache = <PyObject*>self._cache
        cdef PyObject* value
        cdef Py_hash_t hashed
        cdef uint64_t h
        cdef uint32_t i, slot
        cdef bint compared
        acquire((<Cache>cache).lock)
        key = self.nullary
        release((<Cache>cache).lock)
        if key is None:
            made = self.key_of((), {}, False, False)
            acquire((<Cache>cache).lock)
            if self.nullary is None:
                self.nullary = made
            key = self.nullary
            release((<Cache>cache).lock)
        hashed = hash_of(<PyObject*>key)
        h = mixed_in(cache, hashed)
        acquire((<Cache>cache).lock)
        i = find_quickly(cache, <PyObject*>key, h, &slot)
        if i != 0:
            self.nullary_at = i
        value = go_on(cache, <PyObject*>key, h, slot, i, &compared)
        return self.hit(value) if value != NULL else self.miss(key, hashed, args, 0, NULL, None)

    cdef object key_of(self, tuple args, dict kwargs, bint as_method, bint known_only):
        """The key of a call. NO_KEY: `known_only`, and the receiver has no results."""
        cdef Call call
        cdef Py_hash_t hashed
        cdef tuple flat = args + tuple(kwargs.values()), flat_given
        cdef tuple names = tuple(kwargs), names_given
        cdef Py_ssize_t n_given
        receiver = None
        as_method = as_method and self.by_instance
        self.describe(&call, items_of(flat), len(args), <PyObject*>names if names else NULL)
        if self.key_func is not None:
            key = self.key_func(*args, **kwargs)
            if is_awaitable(<PyObject*>key):
                refuse_awaitable("key_func", key)
            hash_of(<PyObject*>key)
            return key
        if not as_method and self.asks_classes and self.receives(
            call.arguments, call.n, call.names
        ):
            if not args:
                args = (kwargs[self.first_name],)
                kwargs = {name: value for name, value in kwargs.items() if name != self.first_name}
            return self.key_of(args, kwargs, True, known_only)
        if as_method and not args:
            raise TypeError(f"{self!r} is a method: its first argument must be the instance")
        flat_given, names_given, n_given = flat, names, len(args)
        if self.key_arguments is not None:
            chosen = self.key_arguments.of(args, kwargs, as_method)
            if chosen is None:
                refuse_arguments(self.function, args, kwargs)
            varied, positional, kwargs = chosen
            args = (*args[:as_method], *varied, *positional)
            flat, names = args + tuple(kwargs.values()), tuple(kwargs)
            self.describe(&call, items_of(flat), len(args), <PyObject*>names if names else NULL)
        if as_method:
            if not takes_weak_references(call.arguments[0]) and is_lasting(args[0]):
                flat = (self.member_of(args[0]), *flat[1:])
                self.describe(&call, items_of(flat), len(args), call.names)
                hash_call(&call)
                return key_of_call(&call, None)
            receiver = self.receiver_of(args[0], known_only)
            if receiver is None:
                return no_key
            call.receiver = call.arguments[0]
            call.arguments += 1
            call.n -= 1
        hashed = try_hash_call(&call)
        if unlikely(hashed == -1):              # unhashable arguments have no key
            self.explain(items_of(flat_given), n_given, <PyObject*>names_given if names_given else NULL, as_method)
        if not as_method and is_single_arg(self, call.arguments, call.n, call.names):
            return args[0]
        if receiver is not None and not known_only:
            remember(receiver, hashed, self._cache)     # the caller may store a value under the key
        return key_of_call(&call, receiver)

    cdef object receiver_of(self, object instance, bint known_only):
        """The Receiver that stands for an object in keys. None: `known_only`, and it has no results."""
        known = self.receivers.get(id(instance))
        if known is not None and known() is instance:
            return known
        if known_only:
            return None
        if not takes_weak_references(<PyObject*>instance):
            raise HasNoKey(
                f"a call on this {type(instance).__name__} has no key: it takes no weak reference (__slots__ without "
                "__weakref__), so its results are not cached"
            )
        receiver = Receiver(instance, forget_receiver)
        receiver.address = (<size_t><PyObject*>instance) >> 4
        receiver.hashes = set()
        receiver.limit = 64
        receiver.cache = ref(self._cache)
        receiver.known = self.receivers
        receiver.id = id(instance)
        if known is not None:                   # of a dead object whose callback has not run yet
            self.receivers.pop(id(instance), None)
        if is_finalized(instance):
            watch_over(receiver)
        return self.receivers.setdefault(id(instance), receiver)


cdef Py_hash_t hash_one(PyObject* item) except? -1:
    return hash_of(item)


cdef int refuse_arguments(object function, tuple args, dict kwargs) except -1:
    """Raise TypeError for arguments that a function does not take."""
    from inspect import signature

    signature(function).bind(*args, **kwargs)
    raise TypeError(f"{getattr(function, '__qualname__', function)} does not take these arguments")


ctypedef Py_hash_t (*TryHash)(PyObject* item) noexcept      # -1: an exception is set
try_hash = <TryHash>hash_one
