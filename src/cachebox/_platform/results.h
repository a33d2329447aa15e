/* What the type of an object alone tells: whether consuming the object uses it up, and whether the type has changed
   since the last look. */
#ifndef CACHEBOX_RESULTS_H
#define CACHEBOX_RESULTS_H

#include <Python.h>
#include <stdint.h>

/* The version of a type: a number that no other type and no other state of it ever gets; 0: it has none. */
static inline uint32_t
cb_version_of(PyTypeObject *type)
{
    return (uint32_t)type->tp_version_tag;
}

static inline int
cb_is_awaitable(PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    return type->tp_as_async != NULL && type->tp_as_async->am_await != NULL;
}

/* Whether a callable may be async. For a function its flags tell. */
static inline int
cb_may_be_async(PyObject *callable)
{
    if (PyFunction_Check(callable)) {
        return (((PyCodeObject *)PyFunction_GET_CODE(callable))->co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)) != 0;
    }
    return !PyCFunction_Check(callable) && !PyType_Check(callable);
}

/* Whether an object is an iterator, plain or async, or an awaitable. */
static inline int
cb_is_consumed(PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type->tp_iternext != NULL && PyIter_Check(value)) {
        return 1;
    }
    return type->tp_as_async != NULL && (type->tp_as_async->am_await != NULL || type->tp_as_async->am_anext != NULL);
}

static uint32_t cb_harmless[64];        /* versions of types whose objects are no context managers of contextlib */

static inline int
cb_is_heap_type(PyTypeObject *type)
{
    return (type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0;
}

/* Whether consuming an object may use it up. Only Python code may be able to tell for sure. */
static inline int
cb_may_pass_once(PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (cb_is_consumed(value)) {
        return 1;
    }
    if (!cb_is_heap_type(type)) {
        return 0;
    }
    uint32_t version = cb_version_of(type);
    return version == 0 || cb_harmless[version & 63] != version;
}

static inline void
cb_note_harmless(PyObject *value)
{
    uint32_t version = cb_version_of(Py_TYPE(value));
    cb_harmless[version & 63] = version;
}

#endif
