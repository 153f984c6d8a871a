/* What a library must do right within a process: `process CASE`. Each case says in its comment how the process must end. */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t struck;

static void note(int number) {
    (void)number;
    struck++;
}

static void *wait_for_message(void *argument) {
    phantom_session session = *(phantom_session *)argument;
    phantom_buffer message;
    phantom_status status = phantom_session_recv(session, PHANTOM_NO_TIMEOUT, &message);
    phantom_buffer_free(&message);
    return (void *)(intptr_t)status;
}

/* A handler that was set without SA_RESTART runs, and the calls go on waiting. Exit 0. */
static void interrupted(void) {
    struct sigaction action;
    pair both = connected();
    pthread_t waiting;
    void *result;
    int at;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&waiting, NULL, wait_for_message, &both.client);
    for (at = 0; at < 50; at++) {
        usleep(2000);
        pthread_kill(waiting, SIGUSR1);
    }
    while (!struck) {
        usleep(1000);
    }
    send_text(both.server, "late");
    pthread_join(waiting, &result);
    REQUIRE((intptr_t)result == PHANTOM_OK);
    part(both);
}

/* SIGINT in a blocking call of the first thread ends the process, as in any C program. Killed by SIGINT. */
static void *kill_by_sigint(void *argument) {
    (void)argument;
    usleep(300000);
    kill(getpid(), SIGINT);
    return NULL;
}

static void sigint(void) {
    pair both = connected();
    pthread_t killer;
    phantom_buffer message;
    pthread_create(&killer, NULL, kill_by_sigint, NULL);
    OK(phantom_session_recv(both.client, LONG_TIME, &message));
}

/* SIGINT that strikes while the library starts is not lost: `process sigint_at_start MICROSECONDS`. Killed by SIGINT. */
static void *start_and_wait(void *argument) {
    (void)argument;
    OK(phantom_init());
    sleep(20);
    return NULL;
}

static void sigint_at_start(int after) {
    pthread_t thread;
    pthread_create(&thread, NULL, start_and_wait, NULL);
    usleep((useconds_t)after);
    kill(getpid(), SIGINT);
    sleep(20);
}

/* The same with one thread, which is the one that starts. Killed by SIGINT. */
static void sigint_at_own_start(int after) {
    pid_t self = getpid();
    if (fork() == 0) {
        usleep((useconds_t)after);
        kill(self, SIGINT);
        _exit(0);
    }
    start_and_wait(NULL);
}

/* A handler for SIGINT stays the program's. Exit 0. */
static void own_sigint(void) {
    struct sigaction action;
    phantom_buffer message;
    pair both;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    sigaction(SIGINT, &action, NULL);
    both = connected();
    kill(getpid(), SIGINT);
    while (!struck) {
        usleep(1000);
    }
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_recv(both.client, 20, &message));
    part(both);
}

/* No signal is taken by the library's threads: it waits until a thread of the program takes it. Exit 0. */
static void signals_stay(void) {
    struct sigaction action;
    sigset_t user, kept;
    pair both;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    sigaction(SIGUSR2, &action, NULL);
    both = connected();
    sigemptyset(&user);
    sigaddset(&user, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &user, &kept);
    kill(getpid(), SIGUSR2);
    send_text(both.client, "x");
    expect_text(both.server, "x");
    usleep(50000);
    REQUIRE(!struck);
    pthread_sigmask(SIG_SETMASK, &kept, NULL);
    REQUIRE(struck == 1);
    part(both);
}

/* Every thread that is not the program's blocks every signal that can be blocked. Exit 0. */
static void masks(void) {
    pair both = connected();
    unsigned long long blocked;
    struct dirent *task;
    DIR *tasks = opendir("/proc/self/task");
    int threads = 0;
    REQUIRE(tasks != NULL);
    while ((task = readdir(tasks)) != NULL) {
        char path[300], line[300];
        FILE *status;
        if (atoi(task->d_name) == 0 || atoi(task->d_name) == getpid()) {
            continue;
        }
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        status = fopen(path, "r");
        REQUIRE(status != NULL);
        while (fgets(line, sizeof line, status) != NULL) {
            if (sscanf(line, "SigBlk: %llx", &blocked) == 1) {
                int number;
                for (number = 1; number <= 31; number++) {
                    REQUIRE(number == SIGKILL || number == SIGSTOP || blocked >> (number - 1) & 1);
                }
                threads++;
            }
        }
        fclose(status);
    }
    closedir(tasks);
    REQUIRE(threads >= 1);
    part(both);
}

/* Peers that vanish while data is sent must not end the process by SIGPIPE, which keeps its default. Exit 0. */
static void sigpipe(void) {
    static const char block[200000];
    struct sigaction action;
    int round;
    phantom_listener listener;
    char url[512];
    OK(phantom_listener_bind("127.0.0.1:0", LONG_TIME, &listener));
    OK(phantom_listener_url(listener, 0, url, sizeof url, NULL));
    for (round = 0; round < 8; round++) {
        int inform[2];
        char byte = 0;
        pid_t child;
        phantom_session session;
        phantom_status status;
        REQUIRE(pipe(inform) == 0);
        child = fork();
        if (child == 0) {
            char number[16];
            snprintf(number, sizeof number, "%d", inform[1]);
            execl("/proc/self/exe", "process", "vanish", url, number, (char *)NULL);
            _exit(9);
        }
        close(inform[1]);
        session = accept_one(listener);
        REQUIRE(read(inform[0], &byte, 1) == 1);
        kill(child, SIGKILL);
        do {
            status = phantom_session_send(session, block, sizeof block, 5000);
        } while (status == PHANTOM_OK);
        REQUIRE(status == PHANTOM_ERROR_SESSION_DEAD || status == PHANTOM_ERROR_CONNECTION_CLOSED ||
                status == PHANTOM_ERROR_TIMEOUT || status == PHANTOM_ERROR_SESSION_CLOSING);
        waitpid(child, NULL, 0);
        close(inform[0]);
        OK(phantom_session_release(session));
    }
    sigaction(SIGPIPE, NULL, &action);
    REQUIRE(action.sa_handler == SIG_DFL);
    OK(phantom_listener_release(listener));
}

static void vanish(const char *url, int inform) {
    phantom_session session;
    OK(phantom_connect(url, NULL, LONG_TIME, &session));
    send_text(session, "x");
    OK(phantom_session_flush_queue(session, LONG_TIME, NULL));
    REQUIRE(write(inform, "x", 1) == 1);
    pause();
}

/* Every call of a forked child fails, at once; the parent goes on. Exit 0. */
static void forked(void) {
    pair both = connected();
    phantom_buffer held;
    pid_t child;
    int status;
    send_text(both.client, "before");
    OK(phantom_session_recv(both.server, LONG_TIME, &held));
    child = fork();
    if (child == 0) {
        phantom_buffer message;
        phantom_session session;
        alarm(20);
        FAILS(PHANTOM_ERROR_FORKED, phantom_init());
        FAILS(PHANTOM_ERROR_FORKED, phantom_session_send(both.client, "x", 1, PHANTOM_NO_TIMEOUT));
        FAILS(PHANTOM_ERROR_FORKED, phantom_session_recv(both.client, PHANTOM_NO_TIMEOUT, &message));
        FAILS(PHANTOM_ERROR_FORKED, phantom_session_release(both.client));
        FAILS(PHANTOM_ERROR_FORKED, phantom_connect(both.url, NULL, PHANTOM_NO_TIMEOUT, &session));
        FAILS(PHANTOM_ERROR_FORKED, phantom_fini(PHANTOM_NO_TIMEOUT));
        REQUIRE(strcmp(phantom_status_name(PHANTOM_ERROR_FORKED), "FORKED") == 0);
        phantom_buffer_free(&held);
        exit(7); /* with its handlers */
    }
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    phantom_buffer_free(&held);
    send_text(both.client, "after");
    expect_text(both.server, "after");
    part(both);
}

/* A child that is forked before the library is used may use it. Exit 0. */
static void forked_before(void) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        part(connected());
        exit(7);
    }
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    part(connected());
}

/* The process ends although a thread waits. Exit 3. */
static void exit_while_waiting(void) {
    static pair both;
    pthread_t thread;
    both = connected();
    pthread_create(&thread, NULL, wait_for_message, &both.client);
    usleep(50000);
    exit(3);
}

static void *send_for_ever(void *argument) {
    static const char block[50000];
    while (phantom_session_send(*(phantom_session *)argument, block, sizeof block, PHANTOM_NO_TIMEOUT) == PHANTOM_OK) {
    }
    return NULL;
}

static void *receive_for_ever(void *argument) {
    phantom_buffer message;
    while (phantom_session_recv(*(phantom_session *)argument, PHANTOM_NO_TIMEOUT, &message) == PHANTOM_OK) {
        phantom_buffer_free(&message);
    }
    return NULL;
}

/* The process ends amid traffic, by returning from main. Exit 0. */
static void exit_amid_traffic(void) {
    static pair both;
    pthread_t threads[2];
    both = connected();
    pthread_create(&threads[0], NULL, send_for_ever, &both.client);
    pthread_create(&threads[1], NULL, receive_for_ever, &both.server);
    usleep(200000);
}

/* The library is ended by a handler of exit that was set before it started. Exit 5. */
static void end_at_exit(void) {
    phantom_fini(1000);
}

static void fini_at_exit(void) {
    static pair both;
    pthread_t thread;
    atexit(end_at_exit);
    both = connected();
    pthread_create(&thread, NULL, wait_for_message, &both.client);
    usleep(20000);
    exit(5);
}

static pthread_barrier_t line;

static void *first_call(void *argument) {
    (void)argument;
    pthread_barrier_wait(&line);
    return (void *)(intptr_t)phantom_init();
}

/* Eight threads race on the first call. Exit 0. */
static void race(void) {
    pthread_t threads[8];
    void *result;
    int at;
    pthread_barrier_init(&line, NULL, 8);
    for (at = 0; at < 8; at++) {
        pthread_create(&threads[at], NULL, first_call, NULL);
    }
    for (at = 0; at < 8; at++) {
        pthread_join(threads[at], &result);
        REQUIRE((intptr_t)result == PHANTOM_OK);
    }
    part(connected());
}

static void *wait_for_session(void *argument) {
    phantom_outcome outcome;
    return (void *)(intptr_t)phantom_listener_accept(*(phantom_listener *)argument, PHANTOM_NO_TIMEOUT, &outcome);
}

static void *wait_for_event(void *argument) {
    phantom_connection_state state;
    phantom_buffer reason;
    phantom_status status;
    do {
        status = phantom_session_next_event(*(phantom_session *)argument, PHANTOM_NO_TIMEOUT, &state, &reason);
        phantom_buffer_free(&reason);
    } while (status == PHANTOM_OK);
    return (void *)(intptr_t)status;
}

/* The end: what is owed is sent, calls that wait return with 14, later ones get 7, and there is no way back. Exit 0. */
static void fini(void) {
    pair both = connected();
    phantom_buffer message, held;
    phantom_session session;
    pthread_t threads[3];
    void *result;
    int at;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_fini(-2));
    send_text(both.client, "kept over the end");
    OK(phantom_session_recv(both.server, LONG_TIME, &held));
    pthread_create(&threads[0], NULL, wait_for_message, &both.client);
    pthread_create(&threads[1], NULL, wait_for_session, &both.listener);
    pthread_create(&threads[2], NULL, wait_for_event, &both.server);
    usleep(50000);
    OK(phantom_fini(LONG_TIME));
    for (at = 0; at < 3; at++) {
        pthread_join(threads[at], &result);
        REQUIRE((intptr_t)result == PHANTOM_ERROR_CONNECTION_CLOSED);
    }
    OK(phantom_fini(LONG_TIME));
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_init());
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_session_send(both.client, "x", 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_session_recv(both.client, LONG_TIME, &message));
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_session_release(both.client));
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_connect(both.url, NULL, LONG_TIME, &session));
    REQUIRE(strcmp(held.data, "kept over the end") == 0);
    phantom_buffer_free(&held);
}

/* The end of what never began. Exit 0. */
static void fini_first(void) {
    OK(phantom_fini(0));
    OK(phantom_fini(0));
    FAILS(PHANTOM_ERROR_RUNTIME_INIT, phantom_init());
}

/* Sixteen threads call while the library ends. Exit 0. */
static void *call_until_refused(void *argument) {
    pair *both = argument;
    phantom_status status;
    phantom_buffer message;
    int32_t ready;
    do {
        status = phantom_session_is_data_ready(both->client, &ready);
        if (status == PHANTOM_OK) {
            status = phantom_session_send(both->client, "x", 1, 100);
        }
        if (status == PHANTOM_OK) {
            status = phantom_session_recv(both->server, 10, &message);
            phantom_buffer_free(&message);
        }
    } while (status == PHANTOM_OK || status == PHANTOM_ERROR_TIMEOUT);
    return (void *)(intptr_t)status;
}

static void fini_amid_calls(void) {
    static pair both;
    pthread_t threads[16];
    void *result;
    int at;
    both = connected();
    for (at = 0; at < 16; at++) {
        pthread_create(&threads[at], NULL, call_until_refused, &both);
    }
    usleep(200000);
    phantom_fini(2000);
    for (at = 0; at < 16; at++) {
        pthread_join(threads[at], &result);
        REQUIRE((intptr_t)result == PHANTOM_ERROR_RUNTIME_INIT || (intptr_t)result == PHANTOM_ERROR_CONNECTION_CLOSED ||
                (intptr_t)result == PHANTOM_ERROR_SESSION_NOT_FOUND || (intptr_t)result == PHANTOM_ERROR_SESSION_CLOSING);
    }
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"interrupted", interrupted},
    {"sigint", sigint},
    {"own_sigint", own_sigint},
    {"signals_stay", signals_stay},
    {"masks", masks},
    {"sigpipe", sigpipe},
    {"forked", forked},
    {"forked_before", forked_before},
    {"exit_while_waiting", exit_while_waiting},
    {"exit_amid_traffic", exit_amid_traffic},
    {"fini_at_exit", fini_at_exit},
    {"race", race},
    {"fini", fini},
    {"fini_first", fini_first},
    {"fini_amid_calls", fini_amid_calls},
};

int main(int argc, char **argv) {
    size_t at;
    alarm(50);
    if (argc == 4 && strcmp(argv[1], "vanish") == 0) {
        vanish(argv[2], atoi(argv[3]));
    }
    if (argc == 3 && strcmp(argv[1], "sigint_at_start") == 0) {
        sigint_at_start(atoi(argv[2]));
    }
    if (argc == 3 && strcmp(argv[1], "sigint_at_own_start") == 0) {
        sigint_at_own_start(atoi(argv[2]));
    }
    for (at = 0; at < sizeof cases / sizeof *cases; at++) {
        if (argc == 2 && strcmp(argv[1], cases[at].name) == 0) {
            cases[at].run();
            return 0;
        }
    }
    return 2;
}
