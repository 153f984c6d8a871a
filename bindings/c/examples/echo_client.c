/*
 * Sends its arguments to an echo server and prints what comes back.
 *
 *     echo_client phantom://phantom1:...@127.0.0.1:4242 hello world
 */
#include "common.h"

int main(int argc, char **argv) {
    phantom_session session;
    int32_t all = 0;
    int at;
    if (argc < 3) {
        fprintf(stderr, "usage: echo_client URL MESSAGE...\n");
        return 2;
    }
    /* Returns only after the server proved to hold the key that the URL names. */
    check(phantom_connect(argv[1], NULL, 20 * SECONDS, &session), "connect");
    for (at = 2; at < argc; at++) {
        phantom_buffer reply;
        check(phantom_session_send(session, argv[at], strlen(argv[at]), 10 * SECONDS), "send");
        check(phantom_session_recv(session, 10 * SECONDS, &reply), "receive");
        printf("%s\n", (const char *)reply.data);
        phantom_buffer_free(&reply);
    }
    check(phantom_session_disconnect(session, 0, 10 * SECONDS, &all), "disconnect");
    check(phantom_session_release(session), "release");
    return all ? 0 : 1;
}
