/*
 * Sends a file to one client, in pieces of 256 KiB; an empty message ends it.
 *
 *     file_transfer send FILE tcp://127.0.0.1:0      prints the URL, and serves the first client
 *     file_transfer receive URL FILE
 */
#include "common.h"

enum { PIECE = 256 * 1024 };

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int send_file(const char *path, const char *address) {
    static char piece[PIECE];
    phantom_listener listener;
    phantom_outcome outcome;
    phantom_session session;
    char url[512];
    size_t size;
    int32_t all = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return fail(path);
    }
    check(phantom_listener_bind(address, 10 * SECONDS, &listener), "listen");
    check(phantom_listener_url(listener, 0, url, sizeof url, NULL), "url");
    printf("%s\n", url);
    fflush(stdout);
    check(phantom_listener_accept(listener, 60 * SECONDS, &outcome), "accept");
    check(phantom_outcome_session(outcome, &session), "session");
    check(phantom_outcome_release(outcome), "outcome");
    /* Waits while too much is queued, so a large file takes little memory. */
    while ((size = fread(piece, 1, sizeof piece, file)) > 0) {
        check(phantom_session_send(session, piece, size, 60 * SECONDS), "send");
    }
    if (ferror(file)) {
        return fail(path);
    }
    fclose(file);
    check(phantom_session_send(session, NULL, 0, 60 * SECONDS), "send");
    check(phantom_session_disconnect(session, 0, 60 * SECONDS, &all), "disconnect");
    check(phantom_session_release(session), "release");
    check(phantom_listener_release(listener), "listener");
    if (!all) {
        fprintf(stderr, "the other side did not acknowledge everything\n");
    }
    return all ? 0 : 1;
}

static int receive_file(const char *url, const char *path) {
    phantom_session session;
    FILE *file = fopen(path, "wb");
    int done = 0;
    if (file == NULL) {
        return fail(path);
    }
    check(phantom_connect(url, NULL, 20 * SECONDS, &session), "connect");
    while (!done) {
        phantom_buffer piece;
        check(phantom_session_recv(session, 60 * SECONDS, &piece), "receive");
        done = piece.len == 0;
        if (fwrite(piece.data, 1, piece.len, file) != piece.len) {
            return fail(path);
        }
        phantom_buffer_free(&piece);
    }
    if (fclose(file) != 0) {
        return fail(path);
    }
    check(phantom_session_disconnect(session, 0, 10 * SECONDS, NULL), "disconnect");
    check(phantom_session_release(session), "release");
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "send") == 0) {
        return send_file(argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "receive") == 0) {
        return receive_file(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: file_transfer send FILE ADDRESS | receive URL FILE\n");
    return 2;
}
