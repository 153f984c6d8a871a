/*
 * The hand-written half of the library in C: start-up of Python, error texts, buffers, end. Part of the one translation
 * unit that cffi compiles: phantom.h, this, runtime.c, and the generated call shims.
 */
#ifndef PHANTOM_RUNTIME_H
#define PHANTOM_RUNTIME_H

#include "phantom.h"

/*
 * First thing in every call. PHANTOM_OK, or PHANTOM_ERROR_FORKED, PHANTOM_ERROR_NOT_STARTED or
 * PHANTOM_ERROR_RUNTIME_INIT (after phantom_fini) with this thread's error text set. The first call starts Python.
 */
static phantom_status phantom_rt_enter(void);

/* Sets this thread's error text; returns status. */
static phantom_status phantom_rt_refuse(phantom_status status, const char *text);

/* Memory for a buffer, with a NUL behind it; NULL if there is none. secret: it is wiped before it is freed. */
static void *phantom_rt_alloc(size_t size, int secret);

/* NULL does nothing. */
static void phantom_rt_free(void *data);

/* This thread's error text: len bytes of UTF-8, cut at a character if they do not fit. */
static void phantom_rt_error(const char *text, size_t len);

#endif /* PHANTOM_RUNTIME_H */
