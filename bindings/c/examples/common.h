/* What the examples share: ends the program with a readable line when a call failed. */
#ifndef EXAMPLE_COMMON_H
#define EXAMPLE_COMMON_H

#include <phantom.h>
#include <stdio.h>
#include <stdlib.h>

enum { SECONDS = 1000 };

static void check(phantom_status status, const char *what) {
    if (status != PHANTOM_OK) {
        fprintf(stderr, "%s: %s (%d): %s\n", what, phantom_status_name(status), (int)status, phantom_last_error_message());
        exit(1);
    }
}

#endif
