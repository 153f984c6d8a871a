/*
 * Starts the library and says what came of it, on the descriptor of its second argument:
 *
 *     STATUS NAME
 *     TEXT
 *
 * It first sets a locale-free state and then looks whether the library left it and the signals alone.
 */
#define _GNU_SOURCE
#include <locale.h>
#include <phantom.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    FILE *out = fdopen(argc > 2 ? atoi(argv[2]) : 1, "w");
    struct sigaction before[NSIG], after;
    sigset_t mask_before, mask_after;
    phantom_status status;
    int at;
    for (at = 1; at < NSIG; at++) {
        sigaction(at, NULL, &before[at]);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
    status = phantom_init();
    fprintf(out, "%d %s\n%s\n", (int)status, phantom_status_name(status), phantom_last_error_message());
    if (argc > 1 && status == PHANTOM_OK) {
        phantom_session session;
        /* text of an error, and something that fails deep inside */
        status = phantom_connect(argv[1], NULL, 20000, &session);
        fprintf(out, "%d %s\n", (int)status, phantom_last_error_message());
    }
    fprintf(out, "locale %s\n", setlocale(LC_ALL, NULL));
    fprintf(out, "PYTHONHOME %s LC_CTYPE %s\n", getenv("PYTHONHOME") ? "set" : "unset", getenv("LC_CTYPE") ? "set" : "unset");
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    for (at = 1; at < NSIG; at++) {
        sigaction(at, NULL, &after);
        /* SA_RESTORER, which the C library sets by itself, is no change */
        if (after.sa_handler != before[at].sa_handler || (after.sa_flags & ~0x04000000) != (before[at].sa_flags & ~0x04000000)) {
            fprintf(out, "signal %d changed\n", at);
        }
        if (sigismember(&mask_before, at) != sigismember(&mask_after, at)) {
            fprintf(out, "mask of %d changed\n", at);
        }
    }
    fclose(out);
    return 0;
}
