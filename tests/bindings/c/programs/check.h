/* What the test programs share. A check that fails ends the program with its place, status and text. */
#ifndef CHECK_H
#define CHECK_H

#include <phantom.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_TIME 20000

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, phantom_last_error_message()); \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define EXPECT(status, call)                                                                                           \
    do {                                                                                                               \
        phantom_status found_ = (call);                                                                                \
        if (found_ != (status)) {                                                                                      \
            fprintf(stderr, "%s:%d: %s: %s (%d), expected %s: %s\n", __FILE__, __LINE__, #call, phantom_status_name(found_), \
                    (int)found_, phantom_status_name(status), phantom_last_error_message());                           \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define OK(call) EXPECT(PHANTOM_OK, call)

/* A failed call must also say why. */
#define FAILS(status, call)                                                                                            \
    do {                                                                                                               \
        EXPECT(status, call);                                                                                          \
        REQUIRE(strlen(phantom_last_error_message()) > 8);                                                             \
    } while (0)

typedef struct pair {
    phantom_listener listener;
    phantom_session client;
    phantom_session server;
    char url[512];
} pair;

static inline phantom_session accept_one(phantom_listener listener) {
    phantom_outcome outcome;
    phantom_session session;
    OK(phantom_listener_accept(listener, LONG_TIME, &outcome));
    OK(phantom_outcome_session(outcome, &session));
    OK(phantom_outcome_release(outcome));
    return session;
}

static inline pair connected(void) {
    pair both;
    OK(phantom_listener_bind("tcp://127.0.0.1:0", LONG_TIME, &both.listener));
    OK(phantom_listener_url(both.listener, 0, both.url, sizeof both.url, NULL));
    OK(phantom_connect(both.url, NULL, LONG_TIME, &both.client));
    both.server = accept_one(both.listener);
    return both;
}

static inline void part(pair both) {
    OK(phantom_session_disconnect(both.client, 0, LONG_TIME, NULL));
    OK(phantom_session_release(both.client));
    OK(phantom_session_release(both.server));
    OK(phantom_listener_release(both.listener));
}

static inline void send_text(phantom_session session, const char *text) {
    OK(phantom_session_send(session, text, strlen(text), LONG_TIME));
}

static inline void expect_text(phantom_session session, const char *text) {
    phantom_buffer message;
    OK(phantom_session_recv(session, LONG_TIME, &message));
    REQUIRE(message.len == strlen(text) && strcmp(message.data, text) == 0);
    phantom_buffer_free(&message);
    REQUIRE(message.data == NULL && message.len == 0);
}

#endif
