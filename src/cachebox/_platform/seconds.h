/* Lifetimes whose type alone tells that reading them runs no Python code: float, int and timedelta, not subclasses. */
#ifndef CACHEBOX_SECONDS_H
#define CACHEBOX_SECONDS_H

#include <Python.h>
#include <datetime.h>

/* Whether `given` is a float or an int greater than 0; if so, sets the seconds. 0: a check has to tell. */
static inline int
cb_plain_number(PyObject *given, double *seconds)
{
    PyTypeObject *type = Py_TYPE(given);
    if (type == &PyFloat_Type) {
        *seconds = PyFloat_AS_DOUBLE(given);
        return *seconds > 0.0;
    }
    if (type == &PyLong_Type) {
        int overflows;
        long whole = PyLong_AsLongAndOverflow(given, &overflows);
        *seconds = (double)whole;
        return whole > 0;                   /* -1 if it overflows */
    }
    return 0;
}

/* The same for a float, an int or a timedelta. */
static inline int
cb_plain_seconds(PyObject *given, double *seconds)
{
    PyTypeObject *type = Py_TYPE(given);
    if (type == &PyFloat_Type || type == &PyLong_Type) {
        return cb_plain_number(given, seconds);
    }
    if (PyDateTimeAPI != NULL && type == PyDateTimeAPI->DeltaType) {
        long long days = PyDateTime_DELTA_GET_DAYS(given);
        long long rest = PyDateTime_DELTA_GET_SECONDS(given) * 1000000LL + PyDateTime_DELTA_GET_MICROSECONDS(given);
        if (days < 0 || days > 100000) {    /* up to here a double holds the microseconds exactly */
            return 0;
        }
        *seconds = (double)(days * 86400000000LL + rest) / 1e6;
        return *seconds > 0.0;
    }
    return 0;
}

/* Know timedelta from now on. Call it only if the module `datetime` is imported already. Never fails. */
static inline void
cb_know_timedelta(void)
{
    if (PyDateTimeAPI == NULL) {
        PyDateTime_IMPORT;
        PyErr_Clear();
    }
}

#endif
