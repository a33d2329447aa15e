"""Functions that replace Cython's own entries to methods, because Cython's way in costs as much as a hit does.

Such a function handles the likely case, and passes everything else to the entry that it replaced, with the same
arguments. It must be installed at import, before the method can have been called.
"""

from cpython.object cimport PyObject, PyTypeObject


cdef extern from *:
    """
    typedef PyObject *(*cb_method)(PyObject *, PyObject **, Py_ssize_t, PyObject *);

    /* Replace a method's C function. Returns the old one; NULL: the method has another calling convention. */
    static cb_method
    cb_replace_method(PyTypeObject *type, const char *name, cb_method quick)
    {
        PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
        cb_method replaced = NULL;
        if (found != NULL && Py_TYPE(found) == &PyMethodDescr_Type) {
            PyMethodDef *method = ((PyMethodDescrObject *)found)->d_method;
            if (method->ml_flags == (METH_FASTCALL | METH_KEYWORDS)) {
                replaced = (cb_method)(void (*)(void))method->ml_meth;
                method->ml_meth = (PyCFunction)(void (*)(void))quick;
            }
        }
        Py_XDECREF(found);
        return replaced;
    }

    /* Give a subclass written in Python its own copy of a method of its base. The interpreter specialises a call only
       if the method is in the object's own class. */
    static int
    cb_copy_to_subclass(PyObject *type, const char *name)
    {
        int result = -1;
        PyObject *own = NULL, *found = PyObject_GetAttrString(type, name);
        if (found != NULL && Py_TYPE(found) == &PyMethodDescr_Type) {
            own = PyDescr_NewMethod((PyTypeObject *)type, ((PyMethodDescrObject *)found)->d_method);
            if (own != NULL) result = PyObject_SetAttrString(type, name, own);
        }
        else if (found != NULL) {
            result = 0;
        }
        Py_XDECREF(own);
        Py_XDECREF(found);
        return result;
    }

    #define cb_replace_subscript(type, quick) ((type)->tp_as_mapping->mp_subscript = (binaryfunc)(quick))
    """
    ctypedef PyObject* (*Method "cb_method")(PyObject* self, PyObject** args, Py_ssize_t n, PyObject* names) except NULL
    Method replace_method "cb_replace_method"(PyTypeObject*, const char*, Method) noexcept
    int copy_to_subclass "cb_copy_to_subclass"(object type, const char* name) except -1
    void replace_subscript "cb_replace_subscript"(
        PyTypeObject*, PyObject* (*)(PyObject* self, PyObject* key) noexcept
    ) noexcept
