/* Lifetimes and weights whose type alone tells that reading them runs no Python code: float, int and timedelta, not
   subclasses. */
#ifndef CACHEBOX_NUMBERS_H
#define CACHEBOX_NUMBERS_H

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

/* Whether `given` is a float or an int of 0 or more that a double holds exactly; if so, sets the weight. */
static inline int
cb_plain_weight(PyObject *given, double *weight)
{
    if (Py_TYPE(given) == &PyFloat_Type) {
        *weight = PyFloat_AS_DOUBLE(given);
        return *weight >= 0.0;
    }
    if (Py_TYPE(given) == &PyLong_Type) {
        int overflows;
        long long whole = PyLong_AsLongLongAndOverflow(given, &overflows);
        *weight = (double)whole;
        return whole >= 0 && whole <= (1LL << 53);      /* -1 if it overflows */
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
