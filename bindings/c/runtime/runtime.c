/*
 * Starts Python inside a C program without disturbing the program, and keeps what C itself has to keep: error texts,
 * buffers, whether the process was forked, whether the library has ended.
 *
 * What the program must not notice: its signals, its locale, its standard streams and its environment stay as they are.
 * cffi's own start-up respects none of that, looks for Python on PATH, and lets calls return 0 when it fails; so nothing
 * here ever lets it start Python.
 *
 * Given by the build: PHANTOM_PYTHON_DEFAULT (an absolute path), PHANTOM_LIBPYTHON (the soname).
 */
#include "runtime.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "phantom_status_names.c"
#include "phantom_status_name.c"

static int cffi_start_python(void);
static int32_t phantom_rt_py_fini(int64_t timeout_ms);

/* --- Error texts --------------------------------------------------------------------------------------------------- */

enum { PHANTOM_RT_TEXT = 1024 };

static __thread char phantom_rt_text[PHANTOM_RT_TEXT];

static void phantom_rt_error(const char *text, size_t len) {
    if (len >= sizeof phantom_rt_text) {
        len = sizeof phantom_rt_text - 1;
        while (len > 0 && ((unsigned char)text[len] & 0xC0) == 0x80) {
            len--;
        }
    }
    memcpy(phantom_rt_text, text, len);
    phantom_rt_text[len] = '\0';
}

static phantom_status phantom_rt_refuse(phantom_status status, const char *text) {
    phantom_rt_error(text, strlen(text));
    return status;
}

const char *phantom_last_error_message(void) {
    return phantom_rt_text;
}

const char *phantom_status_name(phantom_status status) {
    return phantom_rt_status_name(status);
}

const char *phantom_version_string(void) {
    return PHANTOM_VERSION;
}

static atomic_int phantom_rt_forked;

/* --- Buffers ------------------------------------------------------------------------------------------------------- */

/* Before the bytes of a buffer; its size keeps them aligned for any type. */
typedef union phantom_rt_head {
    struct {
        size_t secret;
        const void *type; /* NULL, where a bytes object has its type: see phantom_rt_is_lent */
        size_t size;
        size_t unused;
    } of;
    max_align_t align;
} phantom_rt_head;

static void *phantom_rt_alloc(size_t size, int secret) {
    phantom_rt_head *head;
    if (size > PTRDIFF_MAX - sizeof *head - 1 || (head = malloc(sizeof *head + size + 1)) == NULL) {
        return NULL;
    }
    head->of.type = NULL;
    head->of.size = size;
    head->of.secret = (size_t)secret;
    ((char *)(head + 1))[size] = '\0';
    return head + 1;
}

/*
 * A message that is not small is not copied for the caller: the buffer is the memory of Python's bytes object, which ends
 * with a NUL as a buffer must. Whoever frees it may not have Python's lock and should not wait for it, so the object goes
 * on a list, by the field that holds its hash, and Python drops it when it next lends one; unless too much has gathered
 * there. The field also says that an object is lent: no object is lent twice at a time.
 */
enum { PHANTOM_RT_SMALL = 1024, PHANTOM_RT_GATHERED = 4 << 20, PHANTOM_RT_NO_HASH = -1, PHANTOM_RT_LENT = 0 };

/* The field of the hash is no part of Python's interface since 3.11, but every version to 3.14 has it. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static _Atomic(PyBytesObject *) phantom_rt_returned;
static atomic_size_t phantom_rt_returned_size;

_Static_assert(sizeof(phantom_rt_head) - offsetof(phantom_rt_head, of.type) ==
                   offsetof(PyBytesObject, ob_sval) - offsetof(PyObject, ob_type),
               "a buffer of malloc could be taken for one that is lent");

static int phantom_rt_is_lent(const void *data) {
    return ((const phantom_rt_head *)data - 1)->of.type == &PyBytes_Type;
}

static void phantom_rt_drop_returned(void) {
    PyBytesObject *at = atomic_exchange_explicit(&phantom_rt_returned, NULL, memory_order_acquire);
    atomic_store_explicit(&phantom_rt_returned_size, 0, memory_order_relaxed);
    while (at != NULL) {
        PyBytesObject *next = (PyBytesObject *)at->ob_shash;
        at->ob_shash = PHANTOM_RT_NO_HASH;
        Py_DECREF(at);
        at = next;
    }
}

static PyObject *phantom_rt_lend(PyObject *self, PyObject *value) {
    Py_ssize_t size;
    (void)self;
    if (!PyBytes_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "only bytes can be lent");
        return NULL;
    }
    if (atomic_load_explicit(&phantom_rt_returned, memory_order_relaxed) != NULL) {
        phantom_rt_drop_returned();
    }
    size = PyBytes_GET_SIZE(value);
    if (size < PHANTOM_RT_SMALL || ((PyBytesObject *)value)->ob_shash != PHANTOM_RT_NO_HASH) {
        void *copy = phantom_rt_alloc((size_t)size, 0);
        if (copy == NULL) {
            return PyErr_NoMemory();
        }
        memcpy(copy, PyBytes_AS_STRING(value), (size_t)size);
        return PyLong_FromVoidPtr(copy);
    }
    ((PyBytesObject *)value)->ob_shash = PHANTOM_RT_LENT;
    Py_INCREF(value);
    return PyLong_FromVoidPtr(PyBytes_AS_STRING(value));
}

static PyMethodDef phantom_rt_lend_method = {"lend", phantom_rt_lend, METH_O, NULL};

static void phantom_rt_return(void *data) {
    PyBytesObject *object = (PyBytesObject *)((char *)data - offsetof(PyBytesObject, ob_sval));
    PyBytesObject *head = atomic_load_explicit(&phantom_rt_returned, memory_order_relaxed);
    size_t gathered = (size_t)PyBytes_GET_SIZE(object) + sizeof *object;
    do {
        object->ob_shash = (Py_hash_t)head;
    } while (!atomic_compare_exchange_weak_explicit(&phantom_rt_returned, &head, object, memory_order_release,
                                                    memory_order_relaxed));
    gathered += atomic_fetch_add_explicit(&phantom_rt_returned_size, gathered, memory_order_relaxed);
    if (gathered > PHANTOM_RT_GATHERED && !atomic_load_explicit(&phantom_rt_forked, memory_order_relaxed)) {
        PyGILState_STATE state = PyGILState_Ensure();
        phantom_rt_drop_returned();
        PyGILState_Release(state);
    }
}

#pragma GCC diagnostic pop

static void phantom_rt_free(void *data) {
    if (data != NULL && phantom_rt_is_lent(data)) {
        phantom_rt_return(data);
    } else if (data != NULL) {
        phantom_rt_head *head = (phantom_rt_head *)data - 1;
        if (head->of.secret) {
            explicit_bzero(data, head->of.size);
        }
        free(head);
    }
}

void phantom_buffer_free(phantom_buffer *buffer) {
    if (buffer != NULL) {
        phantom_rt_free(buffer->data);
        buffer->data = NULL;
        buffer->len = 0;
    }
}

/* --- Start --------------------------------------------------------------------------------------------------------- */

static pthread_once_t phantom_rt_once = PTHREAD_ONCE_INIT;
static atomic_int phantom_rt_finished;
/* Written by the one start before pthread_once returns anywhere. */
static int phantom_rt_running;
static phantom_status phantom_rt_outcome = PHANTOM_ERROR_NOT_STARTED;
static char phantom_rt_reason[PHANTOM_RT_TEXT];

__attribute__((format(printf, 1, 2))) static int phantom_rt_failed(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(phantom_rt_reason, sizeof phantom_rt_reason, format, values);
    va_end(values);
    return -1;
}

/* Why Python raised, as one line. */
static int phantom_rt_raised(const char *what) {
    PyObject *value, *text = NULL;
    const char *words = NULL;
#if PY_VERSION_HEX >= 0x030C0000
    value = PyErr_GetRaisedException();
#else
    PyObject *type, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
#endif
    if (value != NULL && (text = PyObject_Str(value)) != NULL) {
        words = PyUnicode_AsUTF8(text);
    }
    phantom_rt_failed("%s: %s: %s", what, value != NULL ? Py_TYPE(value)->tp_name : "no exception",
                      words != NULL ? words : "");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(value);
    return -1;
}

/* The python to run as: PHANTOM_PYTHON, the one of the prefix that holds this library, or that of the build. */
static int phantom_rt_find_python(char path[PATH_MAX]) {
    Dl_info self;
    char *named = secure_getenv("PHANTOM_PYTHON");
    if (named != NULL && *named != '\0') {
        if (strlen(named) >= PATH_MAX || access(named, X_OK) != 0) {
            const char *why = strerror(strlen(named) >= PATH_MAX ? ENAMETOOLONG : errno);
            return phantom_rt_failed("what PHANTOM_PYTHON names cannot be executed (%s): %s", why, named);
        }
        strcpy(path, named);
        return 0;
    }
    if (dladdr((void *)&phantom_rt_once, &self) != 0 && realpath(self.dli_fname, path) != NULL) {
        static const char beside[] = "/../bin/python3";
        char *end = strrchr(path, '/');
        if (end != NULL && (size_t)(end - path) + sizeof beside <= PATH_MAX) {
            *end = '\0';
            end = strrchr(path, '/'); /* PREFIX/lib -> PREFIX, as python must find pyvenv.cfg by the name it is given */
            strcpy(end != NULL ? end : path, beside + 3);
            if (access(path, X_OK) == 0) {
                return 0;
            }
        }
    }
    if (access(PHANTOM_PYTHON_DEFAULT, X_OK) != 0) {
        return phantom_rt_failed("there is no bin/python3 beside the folder of this library, and %s cannot be executed: %s; "
                                 "install the whole prefix, or set PHANTOM_PYTHON",
                                 PHANTOM_PYTHON_DEFAULT, strerror(errno));
    }
    strcpy(path, PHANTOM_PYTHON_DEFAULT);
    return 0;
}

/*
 * The library that is loaded, and the environment that the python belongs to, must be of the build's version. home: where
 * the environment has its standard library from; empty for a python that belongs to none.
 */
static int phantom_rt_check_version(const char *python, char home[PATH_MAX]) {
    char path[PATH_MAX + 32], line[PATH_MAX + 32];
    const char *loaded = Py_GetVersion(), *end = strrchr(python, '/');
    FILE *config;
    home[0] = '\0';
    if (strncmp(loaded, PY_VERSION " ", sizeof PY_VERSION) != 0) {
        return phantom_rt_failed("this library was built with Python " PY_VERSION " and found %s of Python %.20s; build it again",
                                 PHANTOM_LIBPYTHON, loaded);
    }
    snprintf(path, sizeof path, "%.*s/../pyvenv.cfg", end != NULL ? (int)(end - python) : 1, end != NULL ? python : ".");
    config = fopen(path, "re");
    while (config != NULL && fgets(line, sizeof line, config) != NULL) {
        char version[32];
        if (strncmp(line, "home = /", 8) == 0) {
            line[strcspn(line, "\r\n")] = '\0';
            snprintf(home, PATH_MAX, "%.*s", PATH_MAX - 1, line + 7);
            *strrchr(home, '/') = '\0'; /* PREFIX/bin -> PREFIX */
        }
        if (sscanf(line, " version = %31s", version) == 1 && strcmp(version, PY_VERSION) != 0) {
            fclose(config);
            return phantom_rt_failed("this library was built with Python " PY_VERSION ", and %s is of Python %s; build it again, "
                                     "or set PHANTOM_PYTHON",
                                     python, version);
        }
    }
    if (config != NULL) {
        fclose(config);
    }
    return 0;
}

static int phantom_rt_refused(PyStatus status, const char *python) {
    return phantom_rt_failed("Python did not start as %s: %s", python,
                             status.err_msg != NULL ? status.err_msg : "it asked to exit");
}

static int phantom_rt_boot_interpreter(const char *python, const char *home) {
    PyPreConfig before;
    PyConfig config;
    PyStatus status;
    if (Py_IsInitialized()) {
        return phantom_rt_failed("this process runs a Python of its own; use the Python package phantom there");
    }
    /* Extension modules do not name libpython: in a plugin that was loaded with RTLD_LOCAL they would not find it. */
    dlopen(PHANTOM_LIBPYTHON, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    /* Isolated: no environment variables, no user site, no change of the locale. */
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) {
        return phantom_rt_refused(status, python);
    }
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    config.pathconfig_warnings = 0;
    config.site_import = 0; /* see phantom_rt_enter_environment */
    config.write_bytecode = 0;
    status = PyConfig_SetBytesString(&config, &config.program_name, python);
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesString(&config, &config.executable, python);
    }
    if (!PyStatus_Exception(status) && *home != '\0') {
        status = PyConfig_SetBytesString(&config, &config.home, home);
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    PyConfig_Clear(&config);
    return PyStatus_Exception(status) ? phantom_rt_refused(status, python) : 0;
}

/*
 * PYTHONEXECUTABLE and __PYVENV_LAUNCHER__ are heeded whatever the configuration says, unless it names the home. The
 * environment that the python belongs to is then entered here, by the name that the python really has.
 */
static int phantom_rt_enter_environment(const char *python) {
    PyObject *name = PyUnicode_DecodeFSDefault(python), *site = NULL, *done = NULL;
    if (name != NULL && PySys_SetObject("executable", name) == 0 && (site = PyImport_ImportModule("site")) != NULL) {
        done = PyObject_CallMethod(site, "main", NULL);
    }
    Py_XDECREF(name);
    Py_XDECREF(site);
    Py_XDECREF(done);
    return done != NULL ? 0 : phantom_rt_raised("Python could not set up its environment");
}

/*
 * Python's signal module takes SIGINT over when it is first imported, whatever its configuration says. So it is imported
 * here, and SIGINT given back at once; one that struck in between is raised again.
 */
static int phantom_rt_keep_sigint(void) {
    struct sigaction kept;
    PyObject *module;
    int struck;
    sigaction(SIGINT, NULL, &kept);
    module = PyImport_ImportModule("_signal");
    struck = PyErr_CheckSignals() != 0;
    PyErr_Clear();
    sigaction(SIGINT, &kept, NULL);
    Py_XDECREF(module);
    if (struck) {
        kill(getpid(), SIGINT);
    }
    return module != NULL ? 0 : phantom_rt_failed("Python has no signal module");
}

static int phantom_rt_boot_library(const char *python) {
    PyObject *runtime, *version;
    const char *core;
    char what[PATH_MAX + 64];
    int fits;
    /* Nothing of Python's writes to the program's streams. */
    if (PySys_SetObject("stdout", Py_None) != 0 || PySys_SetObject("stderr", Py_None) != 0) {
        return phantom_rt_failed("out of memory");
    }
    if (phantom_rt_keep_sigint() != 0 || phantom_rt_enter_environment(python) != 0) {
        return -1;
    }
    snprintf(what, sizeof what, "%s has no Phantom that this library can use", python);
    runtime = PyImport_ImportModule("phantom_c_runtime");
    if (runtime == NULL) {
        return phantom_rt_raised(what);
    }
    version = PyObject_GetAttrString(runtime, "CORE_VERSION");
    core = version != NULL ? PyUnicode_AsUTF8(version) : NULL;
    if (core == NULL) {
        phantom_rt_raised(what);
        fits = 0;
    } else {
        fits = strcmp(core, PHANTOM_VERSION) == 0;
        if (!fits) {
            phantom_rt_failed("this is libphantom " PHANTOM_VERSION ", and %s has Phantom %s", python, core);
        }
    }
    if (fits) {
        PyObject *lend = PyCFunction_New(&phantom_rt_lend_method, NULL);
        if (lend == NULL || PyObject_SetAttrString(runtime, "lend", lend) != 0) {
            phantom_rt_raised(what);
            fits = 0;
        }
        Py_XDECREF(lend);
    }
    Py_XDECREF(version);
    Py_DECREF(runtime);
    return fits ? 0 : -1;
}

static void phantom_rt_in_child(void) {
    atomic_store_explicit(&phantom_rt_forked, 1, memory_order_relaxed);
}

/*
 * exit() runs the destructors of the cryptographic library while the loop thread still works. Whoever holds Python's lock
 * from here to the end of the process keeps it from doing so.
 */
static void phantom_rt_at_exit(void) {
    if (!atomic_load_explicit(&phantom_rt_forked, memory_order_relaxed)) {
        PyGILState_Ensure();
    }
}

static void phantom_rt_start(void) {
    char python[PATH_MAX], home[PATH_MAX];
    sigset_t all, kept;
    if (phantom_rt_find_python(python) != 0 || phantom_rt_check_version(python, home) != 0) {
        return;
    }
    if (pthread_atfork(NULL, NULL, phantom_rt_in_child) != 0) {
        phantom_rt_failed("out of memory");
        return;
    }
    /* Threads that are made meanwhile, the loop's above all, take no signal that is meant for the program. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &kept);
    if (phantom_rt_boot_interpreter(python, home) == 0) {
        int booted = phantom_rt_boot_library(python);
        PyEval_SaveThread();
        if (booted == 0) {
            if (cffi_start_python() == 0) {
                phantom_rt_running = 1;
                phantom_rt_outcome = PHANTOM_OK;
                atexit(phantom_rt_at_exit);
            } else if (phantom_rt_text[0] != '\0') {
                phantom_rt_failed("the library did not start: %s", phantom_rt_text);
            } else {
                phantom_rt_failed("the library did not start");
            }
        }
    }
    pthread_sigmask(SIG_SETMASK, &kept, NULL);
}

static phantom_status phantom_rt_enter(void) {
    if (atomic_load_explicit(&phantom_rt_forked, memory_order_relaxed)) {
        return phantom_rt_refuse(PHANTOM_ERROR_FORKED, "the process was forked after the library had started; exec, or use the library "
                                                       "in the child alone");
    }
    if (atomic_load_explicit(&phantom_rt_finished, memory_order_acquire)) {
        return phantom_rt_refuse(PHANTOM_ERROR_RUNTIME_INIT, "phantom_fini has ended the library in this process");
    }
    pthread_once(&phantom_rt_once, phantom_rt_start);
    return phantom_rt_outcome == PHANTOM_OK ? PHANTOM_OK : phantom_rt_refuse(phantom_rt_outcome, phantom_rt_reason);
}

phantom_status phantom_init(void) {
    return phantom_rt_enter();
}

/* --- End ----------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t phantom_rt_ending = PTHREAD_MUTEX_INITIALIZER;

static void phantom_rt_never_start(void) {
    phantom_rt_failed("phantom_fini has ended the library in this process");
}

phantom_status phantom_fini(int64_t timeout_ms) {
    phantom_status status = PHANTOM_OK;
    if (timeout_ms < 0 && timeout_ms != PHANTOM_NO_TIMEOUT) {
        return phantom_rt_refuse(PHANTOM_ERROR_VALIDATION, "phantom_fini: timeout_ms is negative and not PHANTOM_NO_TIMEOUT");
    }
    if (atomic_load_explicit(&phantom_rt_forked, memory_order_relaxed)) {
        return phantom_rt_enter();
    }
    pthread_mutex_lock(&phantom_rt_ending);
    if (!atomic_exchange_explicit(&phantom_rt_finished, 1, memory_order_acq_rel)) {
        pthread_once(&phantom_rt_once, phantom_rt_never_start);
        if (phantom_rt_running) {
            status = phantom_rt_py_fini(timeout_ms);
        }
    }
    pthread_mutex_unlock(&phantom_rt_ending);
    return status;
}
