"""Running steps. Steps are a generator that yields what is to be done, and is sent the outcome.

It is compiled because the end of a generator costs an exception in Python, and because every call of a strategy or of a
two-tier cache passes here.
"""

from cpython.object cimport PyObject

from cachebox._platform.caught cimport ask, caught

cdef extern from *:
    """
    #define CB_TAKE_STEP(reference) ((PyObject *)(reference))
    """
    object take_over "CB_TAKE_STEP"(PyObject*)

cdef extern from "Python.h":
    int send "PyIter_Send"(object steps, object outcome, PyObject** got) except -1      # 0: the generator has returned
    PyObject* call "PyObject_Call"(object function, object arguments, PyObject* names) noexcept


def run(steps, do=None):
    """Do all steps in this thread, and return what they return.

    Args:
        steps: a generator. It yields a function and a tuple of its arguments, and is sent what the function returns.
        do: if given, it is called with each yielded object, whatever that is.

    An exception is thrown into the generator. Raises what leaves the generator.
    """
    cdef PyObject* got
    cdef PyObject* result
    cdef object outcome = None
    cdef bint has_ended = False
    while send(steps, outcome, &got) != 0:
        step = take_over(got)
        while True:
            if do is None:
                function, arguments = <tuple?>step
                result = call(function, <tuple?>arguments, NULL)
            else:
                result = ask(<PyObject*>do, <PyObject*>step, <PyObject*>NULL)
            if result != NULL:
                outcome = take_over(result)
                break
            step = thrown(steps, caught(), &has_ended)
            if has_ended:
                return step
    return take_over(got)


cdef object thrown(object steps, object error, bint* has_ended):
    """The next step after a step has failed, or what the generator returns."""
    try:
        return steps.throw(error)
    except StopIteration as end:
        has_ended[0] = True
        return end.value
    except RuntimeError as wrapped:
        if isinstance(error, StopIteration) and wrapped.__cause__ is error:
            raise error from None           # the function's own StopIteration, which a generator may not raise
        raise
