/*
 * One end of a measurement through libphantom. Reports one JSON object a line on standard output.
 *
 *     peer sink                      receives until an empty message
 *     peer echo SESSIONS             sends every message of that many sessions back until an empty one
 *     peer send URL SIZE SECONDS     sends messages, until all of it is acknowledged
 *     peer call URL SIZE SECONDS SESSIONS   one message there and back at a time, a thread for each session
 *     peer start URL                 loads the library, starts it, connects: how long each takes, and memory
 *     peer noop CALLS THREADS        calls that have nothing to do
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <phantom.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 30000, RING = 16, MOST_THREADS = 64 };

static void check(phantom_status status, const char *what) {
    if (status != PHANTOM_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, phantom_status_name(status), phantom_last_error_message());
        exit(1);
    }
}

#define CHECK(call) check((call), #call)

static double clock_seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double wall(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}

static double cpu(void) {
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

static phantom_listener listen_anywhere(void) {
    phantom_bind_options options;
    phantom_listener listener;
    char url[512];
    phantom_bind_options_init(&options);
    options.addresses = "tcp://127.0.0.1:0";
    CHECK(phantom_config_preset(PHANTOM_CONFIG_PRESET_UNSPECIFIED, &options.config));
    CHECK(phantom_config_set_u32(options.config, PHANTOM_CONFIG_MAX_SESSIONS_PER_IP, 0));
    CHECK(phantom_listener_bind_ex(&options, PATIENCE, &listener));
    CHECK(phantom_listener_url(listener, 0, url, sizeof url, NULL));
    printf("{\"address\": \"%s\"}\n", url);
    fflush(stdout);
    return listener;
}

static phantom_session accepted(phantom_listener listener) {
    phantom_outcome outcome;
    phantom_session session;
    CHECK(phantom_listener_accept(listener, PATIENCE, &outcome));
    CHECK(phantom_outcome_session(outcome, &session));
    CHECK(phantom_outcome_release(outcome));
    return session;
}

static void report(double bytes, double messages, double seconds, double used) {
    printf("{\"bytes\": %.0f, \"messages\": %.0f, \"seconds\": %.9f, \"cpu\": %.9f}\n", bytes, messages, seconds, used);
}

static void sink(void) {
    phantom_session session = accepted(listen_anywhere());
    phantom_buffer message;
    double bytes = 0, messages = 0, begun, used;
    CHECK(phantom_session_recv(session, PATIENCE, &message));
    phantom_buffer_free(&message);
    begun = wall();
    used = cpu();
    for (;;) {
        size_t len;
        CHECK(phantom_session_recv(session, PATIENCE, &message));
        len = message.len;
        phantom_buffer_free(&message);
        if (len == 0) {
            break;
        }
        bytes += (double)len;
        messages++;
    }
    report(bytes, messages, wall() - begun, cpu() - used);
    CHECK(phantom_session_disconnect(session, 0, PATIENCE, NULL));
}

static void *echo_one(void *argument) {
    phantom_session session = *(phantom_session *)argument;
    phantom_buffer message;
    size_t len;
    do {
        CHECK(phantom_session_recv(session, PATIENCE, &message));
        len = message.len;
        if (len != 0) {
            CHECK(phantom_session_send(session, message.data, len, PATIENCE));
        }
        phantom_buffer_free(&message);
    } while (len != 0);
    return NULL;
}

static void echo(int count) {
    phantom_listener listener = listen_anywhere();
    phantom_session sessions[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    double begun, used;
    int at;
    for (at = 0; at < count; at++) {
        sessions[at] = accepted(listener);
        pthread_create(&threads[at], NULL, echo_one, &sessions[at]);
    }
    begun = wall();
    used = cpu();
    for (at = 0; at < count; at++) {
        pthread_join(threads[at], NULL);
    }
    report(0, 0, wall() - begun, cpu() - used);
}

static char *random_bytes(size_t size) {
    char *bytes = malloc(size);
    FILE *source = fopen("/dev/urandom", "rb");
    if (bytes == NULL || source == NULL || fread(bytes, 1, size, source) != size) {
        exit(1);
    }
    fclose(source);
    return bytes;
}

static void send_for(const char *url, size_t size, double seconds) {
    phantom_session session;
    char *ring = random_bytes(size * RING);
    double messages = 0, begun, used, end;
    int at;
    CHECK(phantom_connect(url, NULL, PATIENCE, &session));
    begun = wall();
    used = cpu();
    end = begun + seconds;
    while (wall() < end) {
        for (at = 0; at < RING; at++) {
            CHECK(phantom_session_send(session, ring + size * (size_t)at, size, PATIENCE));
        }
        messages += RING;
    }
    CHECK(phantom_session_send(session, NULL, 0, PATIENCE));
    CHECK(phantom_session_flush_queue(session, PATIENCE, NULL));
    report(messages * (double)size, messages, wall() - begun, cpu() - used);
    CHECK(phantom_session_disconnect(session, 0, PATIENCE, NULL));
}

typedef struct caller {
    phantom_session session;
    const char *message;
    size_t size;
    double seconds;
    float *took;
    size_t count, most;
} caller;

static void *call_one(void *argument) {
    caller *self = argument;
    double now = wall(), end = now + self->seconds;
    while (now < end && self->count < self->most) {
        phantom_buffer reply;
        double then = now;
        CHECK(phantom_session_send(self->session, self->message, self->size, PATIENCE));
        CHECK(phantom_session_recv(self->session, PATIENCE, &reply));
        phantom_buffer_free(&reply);
        now = wall();
        self->took[self->count++] = (float)(now - then);
    }
    return NULL;
}

static int by_size(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static void call(const char *url, size_t size, double seconds, int count) {
    static caller callers[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    char *message = random_bytes(size);
    double begun, used, spent;
    size_t all = 0;
    float *took;
    int at;
    for (at = 0; at < count; at++) {
        callers[at] = (caller){.message = message, .size = size, .seconds = seconds, .most = 1000000};
        callers[at].took = malloc(callers[at].most * sizeof *took);
        CHECK(phantom_connect(url, NULL, PATIENCE, &callers[at].session));
    }
    begun = wall();
    used = cpu();
    for (at = 0; at < count; at++) {
        pthread_create(&threads[at], NULL, call_one, &callers[at]);
    }
    for (at = 0; at < count; at++) {
        pthread_join(threads[at], NULL);
        all += callers[at].count;
    }
    spent = wall() - begun;
    used = cpu() - used;
    took = malloc((all + 1) * sizeof *took);
    all = 0;
    for (at = 0; at < count; at++) {
        memcpy(took + all, callers[at].took, callers[at].count * sizeof *took);
        all += callers[at].count;
        CHECK(phantom_session_send(callers[at].session, NULL, 0, PATIENCE));
        CHECK(phantom_session_disconnect(callers[at].session, 0, PATIENCE, NULL));
    }
    qsort(took, all, sizeof *took, by_size);
    printf("{\"messages\": %zu, \"seconds\": %.9f, \"cpu\": %.9f, \"p50\": %.3f, \"p99\": %.3f}\n", all, spent, used,
           all ? took[all / 2] * 1e6 : 0.0, all ? took[all * 99 / 100] * 1e6 : 0.0);
}

static double resident_mib(void) {
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*d %ld", &pages) != 1) {
        exit(1);
    }
    fclose(statm);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
}

static void start(const char *url) {
    double bare = resident_mib(), begun = wall(), started, connected, again;
    phantom_session session;
    CHECK(phantom_init());
    started = wall();
    CHECK(phantom_connect(url, NULL, PATIENCE, &session));
    connected = wall();
    CHECK(phantom_session_send(session, NULL, 0, PATIENCE));
    CHECK(phantom_session_disconnect(session, 0, PATIENCE, NULL));
    again = wall();
    CHECK(phantom_connect(url, NULL, PATIENCE, &session));
    again = wall() - again;
    CHECK(phantom_session_send(session, NULL, 0, PATIENCE));
    CHECK(phantom_session_disconnect(session, 0, PATIENCE, NULL));
    printf("{\"init ms\": %.3f, \"first connect ms\": %.3f, \"connect ms\": %.3f, \"RSS before MiB\": %.1f, "
           "\"RSS MiB\": %.1f}\n",
           (started - begun) * 1e3, (connected - started) * 1e3, again * 1e3, bare, resident_mib());
}

typedef struct idler {
    phantom_listener listener;
    long calls;
    double cpu;
} idler;

static void *idle(void *argument) {
    idler *self = argument;
    int32_t answer;
    long left;
    double begun = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
    for (left = self->calls; left > 0; left--) {
        CHECK(phantom_listener_is_shutting_down(self->listener, &answer));
    }
    self->cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begun;
    return NULL;
}

static void noop(long calls, int count) {
    idler idlers[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    double begun, used = 0, spent;
    phantom_listener listener;
    int at;
    CHECK(phantom_listener_bind("127.0.0.1:0", PATIENCE, &listener));
    begun = wall();
    for (at = 0; at < count; at++) {
        idlers[at] = (idler){.listener = listener, .calls = calls};
        if (count == 1) {
            idle(&idlers[at]);
        } else {
            pthread_create(&threads[at], NULL, idle, &idlers[at]);
        }
    }
    for (at = 0; at < count; at++) {
        if (count > 1) {
            pthread_join(threads[at], NULL);
        }
        used += idlers[at].cpu;
    }
    spent = wall() - begun;
    printf("{\"calls\": %ld, \"ns\": %.1f, \"cpu ns\": %.1f}\n", calls * count, spent / (double)(calls * count) * 1e9,
           used / (double)(calls * count) * 1e9);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "sink") == 0) {
        sink();
    } else if (strcmp(mode, "echo") == 0 && argc == 3) {
        echo(atoi(argv[2]));
    } else if (strcmp(mode, "send") == 0 && argc == 5) {
        send_for(argv[2], (size_t)atol(argv[3]), atof(argv[4]));
    } else if (strcmp(mode, "call") == 0 && argc == 6) {
        call(argv[2], (size_t)atol(argv[3]), atof(argv[4]), atoi(argv[5]));
    } else if (strcmp(mode, "start") == 0 && argc == 3) {
        start(argv[2]);
    } else if (strcmp(mode, "noop") == 0 && argc == 4) {
        noop(atol(argv[2]), atoi(argv[3]));
    } else {
        fprintf(stderr, "see the beginning of the source\n");
        return 2;
    }
    return 0;
}
