/*
 * Sends back what it receives, each session in a thread of its own. Prints the URL that clients connect to.
 *
 *     echo_server tcp://127.0.0.1:4242 [SEED-FILE]
 *
 * Without a file of 64 secret bytes the identity is a fresh one, and so is the pin in the URL. SIGINT and SIGTERM end it.
 */
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "common.h"

static void *serve(void *argument) {
    phantom_session session = {(uint64_t)(uintptr_t)argument};
    phantom_buffer message;
    while (phantom_session_recv(session, PHANTOM_NO_TIMEOUT, &message) == PHANTOM_OK) {
        phantom_status sent = phantom_session_send(session, message.data, message.len, 60 * SECONDS);
        phantom_buffer_free(&message);
        if (sent != PHANTOM_OK) {
            break;
        }
    }
    phantom_session_release(session);
    return NULL;
}

static void *accept_all(void *argument) {
    phantom_listener listener = *(phantom_listener *)argument;
    phantom_outcome outcome;
    while (phantom_listener_accept(listener, PHANTOM_NO_TIMEOUT, &outcome) == PHANTOM_OK) {
        phantom_session session;
        pthread_t thread;
        if (phantom_outcome_session(outcome, &session) == PHANTOM_OK) {
            if (pthread_create(&thread, NULL, serve, (void *)(uintptr_t)session.id) == 0) {
                pthread_detach(thread);
            } else {
                phantom_session_release(session);
            }
        }
        phantom_outcome_release(outcome);
    }
    return NULL;
}

static phantom_signing_key read_key(const char *path) {
    unsigned char seed[PHANTOM_SIGNING_SEED_BYTES];
    phantom_signing_key key;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fread(seed, 1, sizeof seed, file) != sizeof seed) {
        perror(path);
        exit(1);
    }
    fclose(file);
    check(phantom_signing_key_from_seed(seed, sizeof seed, &key), "signing key");
    memset(seed, 0, sizeof seed);
    return key;
}

int main(int argc, char **argv) {
    phantom_listener listener;
    char url[512];
    pthread_t acceptor;
    sigset_t ends;
    int which;
    if (argc < 2) {
        fprintf(stderr, "usage: echo_server ADDRESS [SEED-FILE]\n");
        return 2;
    }
    /* Blocked in every thread from here on, so that sigwait gets them. */
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    if (argc > 2) {
        phantom_signing_key key = read_key(argv[2]);
        check(phantom_listener_bind_with_signing_key(argv[1], key, 10 * SECONDS, &listener), "listen");
        check(phantom_signing_key_free(key), "free the key");
    } else {
        check(phantom_listener_bind(argv[1], 10 * SECONDS, &listener), "listen");
    }
    check(phantom_listener_url(listener, 0, url, sizeof url, NULL), "url");
    printf("%s\n", url);
    fflush(stdout);
    pthread_create(&acceptor, NULL, accept_all, &listener);
    sigwait(&ends, &which);
    check(phantom_listener_shutdown(listener), "shut down");
    pthread_join(acceptor, NULL);
    /* Ends the sessions that still run, after what they owe was sent. */
    check(phantom_fini(10 * SECONDS), "end");
    return 0;
}
