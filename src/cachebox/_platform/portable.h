/* What Cython cannot express: branch hints, prefetch, and the equality of keys whose `==` runs no Python code.
   Every compiler built-in has a guard, so that an unknown compiler gets plain C. */
#ifndef CACHEBOX_PORTABLE_H
#define CACHEBOX_PORTABLE_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#  define CB_LIKELY(x) __builtin_expect(!!(x), 1)
#  define CB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#  define CB_PREFETCH(address) __builtin_prefetch(address)
#  define CB_OUT_OF_LINE __attribute__((noinline, unused))
#else
#  define CB_LIKELY(x) (x)
#  define CB_UNLIKELY(x) (x)
#  define CB_PREFETCH(address) ((void)(address))
#  define CB_OUT_OF_LINE
#endif

/* `a` if it is at most `limit`, else `b`. Without a branch, because the outcome is random. */
static inline uint32_t
cb_select_le(uint32_t a, uint32_t limit, uint32_t b)
{
    return a ^ ((a ^ b) & (0u - (uint32_t)(a > limit)));
}

/* Add a * b to a sum of 128 bits. */
static inline void
cb_add_product(uint64_t *low, uint64_t *high, uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__)
    unsigned __int128 sum = ((unsigned __int128)*high << 64 | *low) + (unsigned __int128)a * b;
    *low = (uint64_t)sum;
    *high = (uint64_t)(sum >> 64);
#else
    uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    uint64_t middle = ah * bl + (al * bl >> 32), other = al * bh + (uint32_t)middle;
    uint64_t product = a * b;
    *low += product;
    *high += ah * bh + (middle >> 32) + (other >> 32) + (*low < product);
#endif
}

/* Make every function that Cython calls inline always inline, because those are the hot path. A compiler that leaves a
   long one out of line cannot fold the constants that callers pass, and a cached call takes half as long again. */
#ifdef CYTHON_INLINE
#  undef CYTHON_INLINE
#  if defined(__GNUC__) || defined(__clang__)
#    define CYTHON_INLINE inline __attribute__((always_inline, unused))
#  elif defined(_MSC_VER)
#    define CYTHON_INLINE __forceinline
#  else
#    define CYTHON_INLINE inline
#  endif
#endif

/* Whether hash(key) takes no call, as for a small int and a str with a cached hash; if so, sets that hash. */
static inline int
cb_knows_hash(PyObject *key, Py_hash_t *hash)
{
    if (CB_LIKELY(PyUnicode_CheckExact(key))) {
#if PY_VERSION_HEX >= 0x030F0000
        Py_hash_t known = PyUnstable_Unicode_GET_CACHED_HASH(key);
#elif defined(Py_GIL_DISABLED)
        Py_hash_t known = _Py_atomic_load_ssize_relaxed(&((PyASCIIObject *)key)->hash);
#else
        Py_hash_t known = ((PyASCIIObject *)key)->hash;
#endif
        *hash = known;
        return known != -1;
    }
    if (PyLong_CheckExact(key)) {
        PyLongObject *number = (PyLongObject *)key;
#if PY_VERSION_HEX >= 0x030C0000
        int small = PyUnstable_Long_IsCompact(number);
        Py_ssize_t value = small ? PyUnstable_Long_CompactValue(number) : 0;
#else
        int small = Py_SIZE(number) >= -1 && Py_SIZE(number) <= 1;
        Py_ssize_t value = small ? Py_SIZE(number) * (Py_ssize_t)number->ob_digit[0] : 0;
#endif
        *hash = value == -1 ? -2 : value;
        return small;
    }
    return 0;
}

/* hash(key); -1 and an exception if it has none. */
static inline Py_hash_t
cb_hash(PyObject *key)
{
    Py_hash_t hash;
    return CB_LIKELY(cb_knows_hash(key, &hash)) ? hash : PyObject_Hash(key);
}

static inline int
cb_same_8(const char *a, const char *b)
{
    uint64_t x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    return x == y;
}

static inline int
cb_same_4(const char *a, const char *b)
{
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return x == y;
}

/* Whether n bytes are equal. Keys are short: calling memcmp takes longer than comparing. The last step overlaps. */
static inline int
cb_same_bytes(const char *a, const char *b, size_t n)
{
    size_t k;
    if (n > 64) {
        return memcmp(a, b, n) == 0;
    }
    if (n >= 8) {
        for (k = 0; k + 8 < n; k += 8) {
            if (!cb_same_8(a + k, b + k)) {
                return 0;
            }
        }
        return cb_same_8(a + n - 8, b + n - 8);
    }
    if (n >= 4) {
        return cb_same_4(a, b) && cb_same_4(a + n - 4, b + n - 4);
    }
    for (k = 0; k < n; k++) {
        if (a[k] != b[k]) {
            return 0;
        }
    }
    return 1;
}

/* Whether both are short ASCII texts and equal. Calls nothing. 0 means "unknown": then ask `cb_plain_equal`. */
static inline int
cb_short_equal(PyObject *a, PyObject *b)
{
    Py_ssize_t length;
    if (!PyUnicode_CheckExact(a) || !PyUnicode_CheckExact(b)) {
        return 0;
    }
    length = PyUnicode_GET_LENGTH(a);
    return length == PyUnicode_GET_LENGTH(b) && length <= 64 && PyUnicode_IS_COMPACT_ASCII(a)
           && PyUnicode_IS_COMPACT_ASCII(b)
           && cb_same_bytes((const char *)((PyASCIIObject *)a + 1), (const char *)((PyASCIIObject *)b + 1), (size_t)length);
}

/* Whether a key is a str, int or bytes whose class was not made in Python: its hash runs no Python code and cannot
   fail. Reads the flags once, because every insertion asks. */
static inline int
cb_is_primitive(PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    return !PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)
           && PyType_HasFeature(
               type, Py_TPFLAGS_LONG_SUBCLASS | Py_TPFLAGS_BYTES_SUBCLASS | Py_TPFLAGS_UNICODE_SUBCLASS);
}

#define cb_primitive_hash(key) (Py_TYPE(key)->tp_hash(key))

/* a == b as a truth value, of two different objects; -1 and an exception if that fails. May run any code.
   Does what `PyObject_RichCompareBool` does, but faster for two objects of one type, as most keys are. */
static inline int
cb_equal(PyObject *a, PyObject *b)
{
    richcmpfunc compare = Py_TYPE(a)->tp_richcompare;
    PyObject *answer;
    int equal;
    if (CB_UNLIKELY(Py_TYPE(a) != Py_TYPE(b) || compare == NULL)) {
        return PyObject_RichCompareBool(a, b, Py_EQ);
    }
    answer = compare(a, b, Py_EQ);
    if (answer == Py_NotImplemented) {
        Py_DECREF(answer);
        answer = compare(b, a, Py_EQ);
        if (answer == Py_NotImplemented) {
            Py_DECREF(answer);
            return 0;
        }
    }
    if (answer == NULL) {
        return -1;
    }
    equal = answer == Py_True ? 1 : answer == Py_False ? 0 : PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return equal;
}

/* 1: equal, 0: different, -1: only `==` can tell, which may run Python code. The caller has compared the addresses. */
CB_OUT_OF_LINE static int cb_plain_equal(PyObject *a, PyObject *b);

/* The same of two tuples of one class that inherits `==` from tuple. Tuples within them are left to `==`. */
CB_OUT_OF_LINE static int
cb_plain_equal_items(PyObject *a, PyObject *b)
{
    Py_ssize_t i, n = PyTuple_GET_SIZE(a);
    if (n != PyTuple_GET_SIZE(b)) {
        return 0;
    }
    for (i = 0; i < n; i++) {
        PyObject *one = PyTuple_GET_ITEM(a, i), *other = PyTuple_GET_ITEM(b, i);
        int equal = one == other ? 1 : PyTuple_Check(one) ? -1 : cb_plain_equal(one, other);
        if (equal != 1) {
            return equal;
        }
    }
    return 1;
}

CB_OUT_OF_LINE static int
cb_plain_equal(PyObject *a, PyObject *b)
{
    PyTypeObject *type = Py_TYPE(a);
    if (type != Py_TYPE(b)) {
        return -1;
    }
    if (CB_LIKELY(type == &PyUnicode_Type)) {
        Py_ssize_t length = PyUnicode_GET_LENGTH(a);
        return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b)
               && cb_same_bytes(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * PyUnicode_KIND(a));
    }
    if (type == &PyLong_Type) {
        /* it returns one of the two singletons and cannot fail */
        PyObject *equal = type->tp_richcompare(a, b, Py_EQ);
        int same = equal == Py_True;
        Py_DECREF(equal);
        return same;
    }
    if (type == &PyBytes_Type) {
        /* not `cb_same_bytes`: with one more caller the compiler no longer inlines that into the hit of a call */
        Py_ssize_t length = PyBytes_GET_SIZE(a);
        return length == PyBytes_GET_SIZE(b)
               && memcmp(PyBytes_AS_STRING(a), PyBytes_AS_STRING(b), (size_t)length) == 0;
    }
    if (type == &PyFloat_Type) {
        return PyFloat_AS_DOUBLE(a) == PyFloat_AS_DOUBLE(b);
    }
    if (type == &PyComplex_Type) {
        Py_complex one = ((PyComplexObject *)a)->cval, other = ((PyComplexObject *)b)->cval;
        return one.real == other.real && one.imag == other.imag;
    }
    if (PyTuple_Check(a) && type->tp_richcompare == PyTuple_Type.tp_richcompare) {
        return cb_plain_equal_items(a, b);
    }
    return -1;
}

#endif
