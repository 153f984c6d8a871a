/*
 * Many things at once in one session: each WORD travels on a stream of its own, and comes back on it in capitals.
 *
 *     stream_echo serve tcp://127.0.0.1:0      prints the URL, and serves the first client
 *     stream_echo ask URL WORD...
 *
 * A stream is bytes, without the borders of messages; each side says when its half is done.
 */
#include "common.h"

#include <ctype.h>
#include <string.h>

enum { MOST = 4096 };

/* Reads to the end of the peer's half; what is over MOST is left out. */
static size_t read_all(phantom_stream stream, char *text) {
    size_t length = 0;
    for (;;) {
        phantom_buffer piece;
        int32_t end = 0;
        check(phantom_stream_recv(stream, 10 * SECONDS, &piece, &end), "receive");
        if (end) {
            break;
        }
        size_t take = piece.len < MOST - length ? piece.len : MOST - length;
        memcpy(text + length, piece.data, take);
        length += take;
        phantom_buffer_free(&piece);
    }
    text[length] = '\0';
    return length;
}

static int serve(const char *address) {
    static char text[MOST + 1];
    phantom_listener listener;
    phantom_outcome outcome;
    phantom_session session;
    phantom_stream stream;
    char url[512];
    check(phantom_listener_bind(address, 10 * SECONDS, &listener), "listen");
    check(phantom_listener_url(listener, 0, url, sizeof url, NULL), "url");
    printf("%s\n", url);
    fflush(stdout);
    check(phantom_listener_accept(listener, 60 * SECONDS, &outcome), "accept");
    check(phantom_outcome_session(outcome, &session), "session");
    check(phantom_outcome_release(outcome), "outcome");
    /* Until the client closes the session. */
    while (phantom_session_accept_stream(session, 60 * SECONDS, &stream) == PHANTOM_OK) {
        size_t length = read_all(stream, text);
        for (size_t at = 0; at < length; at++) {
            text[at] = (char)toupper((unsigned char)text[at]);
        }
        check(phantom_stream_send_reliable(stream, text, length, 10 * SECONDS), "send");
        check(phantom_stream_finish(stream), "finish");
        check(phantom_stream_release(stream), "release");
    }
    check(phantom_session_release(session), "release");
    check(phantom_listener_release(listener), "listener");
    return 0;
}

static int ask(const char *url, char **words, int count) {
    static char text[MOST + 1];
    phantom_session session;
    phantom_stream *streams = calloc((size_t)count, sizeof *streams);
    int at;
    if (streams == NULL) {
        return 1;
    }
    check(phantom_connect(url, NULL, 20 * SECONDS, &session), "connect");
    for (at = 0; at < count; at++) {
        check(phantom_session_open_stream(session, 0, 10 * SECONDS, &streams[at]), "open");
        check(phantom_stream_send_reliable(streams[at], words[at], strlen(words[at]), 10 * SECONDS), "send");
        check(phantom_stream_finish(streams[at]), "finish");
    }
    for (at = 0; at < count; at++) {
        read_all(streams[at], text);
        printf("%s\n", text);
        check(phantom_stream_release(streams[at]), "release");
    }
    free(streams);
    check(phantom_session_disconnect(session, 0, 10 * SECONDS, NULL), "disconnect");
    check(phantom_session_release(session), "release");
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "serve") == 0) {
        return serve(argv[2]);
    }
    if (argc > 3 && strcmp(argv[1], "ask") == 0) {
        return ask(argv[2], argv + 3, argc - 3);
    }
    fprintf(stderr, "usage: stream_echo serve ADDRESS | ask URL WORD...\n");
    return 2;
}
