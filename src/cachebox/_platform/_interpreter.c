/* Decides which interpreter may import this package: the main one, once in the life of a process. Also says how the
   package was compiled.

   Compiled modules keep objects in static variables. A subinterpreter would get objects of the main one. An interpreter
   that is initialised after the first has been finalised would get objects of the old one. Both get an ImportError
   here, before any such module is imported. */
#include <Python.h>

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

#ifndef CACHEBOX_CYTHON
#define CACHEBOX_CYTHON unknown
#endif

#if defined(__clang__)
#define COMPILER __VERSION__
#elif defined(__GNUC__)
#define COMPILER "GCC " __VERSION__
#elif defined(_MSC_VER)
#define COMPILER "MSC " TEXT(_MSC_VER)
#else
#define COMPILER "unknown"
#endif

/* What differs from a release build, in words; empty for a release build. */
static const char *const options = ""
#if !defined(__OPTIMIZE__) && !defined(_MSC_VER)
    " not optimised"
#endif
#ifdef CYTHON_REFNANNY
    " references checked"
#endif
#ifdef CYTHON_TRACE
    " lines traced"
#endif
#ifdef __SANITIZE_ADDRESS__
    " AddressSanitizer"
#endif
#ifdef __SANITIZE_THREAD__
    " ThreadSanitizer"
#endif
    ;

static int finalised = 0;           /* an interpreter that imported this has ended */
static int known = 0;

static void
note_end(void)
{
    finalised = 1;
}

static int
check(PyObject *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(
            PyExc_ImportError,
            "cachebox works in the main interpreter only, not in a subinterpreter: its compiled modules keep one state for "
            "the whole process (for mod_wsgi: WSGIApplicationGroup %{GLOBAL})");
        return -1;
    }
    if (finalised) {
        PyErr_SetString(
            PyExc_ImportError,
            "cachebox cannot be imported again after the interpreter was finalised and initialised anew: its compiled "
            "modules still have objects of before; start another process");
        return -1;
    }
    if (!known) {
        known = Py_AtExit(note_end) == 0;
    }
    if (PyModule_AddStringConstant(module, "compiler", COMPILER) < 0
        || PyModule_AddStringConstant(module, "cython", TEXT(CACHEBOX_CYTHON)) < 0
        || PyModule_AddStringConstant(module, "options", options) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)check},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},   /* so that the text above is shown */
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "cachebox._platform._interpreter", "Importing it checks that this interpreter may import the package.", 0,
    NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__interpreter(void)
{
    return PyModuleDef_Init(&definition);
}
