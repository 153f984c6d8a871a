/* Everything that a program can do with the library in one process: `consumer CASE...`, or `consumer all`. */
#include "check.h"

static void sizes(void) {
    REQUIRE(phantom_abi_version() == PHANTOM_ABI_VERSION);
    REQUIRE(phantom_replay_window_bits() == PHANTOM_REPLAY_WINDOW_BITS && PHANTOM_REPLAY_WINDOW_BITS == 1024);
    REQUIRE(phantom_aead_overhead() == 16 && phantom_aead_max_invocations() == UINT64_C(1) << 48);
    REQUIRE(phantom_length_prefix() == 4 && phantom_early_data_max() == 16384 && phantom_challenge_bytes() == 32);
    REQUIRE(phantom_session_id_bytes() == 32 && phantom_secret_bytes() == 32);
    REQUIRE(phantom_signing_seed_bytes() == 64 && phantom_verifying_key_bytes() == 1984);
    REQUIRE(strcmp(phantom_version_string(), PHANTOM_VERSION) == 0);
    REQUIRE(strcmp(phantom_status_name(PHANTOM_OK), "OK") == 0);
    REQUIRE(strcmp(phantom_status_name(20), "SERVER_IDENTITY_MISMATCH") == 0);
    REQUIRE(strcmp(phantom_status_name(PHANTOM_ERROR_FORKED), "FORKED") == 0);
    REQUIRE(strcmp(phantom_status_name(12345), "UNKNOWN") == 0 && strcmp(phantom_status_name(-5), "UNKNOWN") == 0);
    OK(phantom_self_test("auto"));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_self_test("homegrown"));
}

static void echo(void) {
    pair both = connected();
    size_t size;
    send_text(both.client, "ping");
    expect_text(both.server, "ping");
    send_text(both.server, "pong");
    expect_text(both.client, "pong");
    for (size = 0; size <= 16 << 20; size = size ? size * 4 : 1) {
        char *data = malloc(size + 1);
        phantom_buffer message;
        size_t at;
        for (at = 0; at < size; at++) {
            data[at] = (char)(at * 2654435761u >> 13);
        }
        OK(phantom_session_send(both.client, size ? data : NULL, size, LONG_TIME));
        OK(phantom_session_recv(both.server, LONG_TIME, &message));
        REQUIRE(message.len == size && message.data != NULL && memcmp(message.data, data, size) == 0);
        REQUIRE(((char *)message.data)[size] == '\0');
        phantom_buffer_free(&message);
        free(data);
    }
    part(both);
}

static void order(void) {
    pair both = connected();
    uint32_t sent, received = 0;
    uint64_t acknowledged = 0;
    for (sent = 0; sent < 20000; sent++) {
        OK(phantom_session_send(both.client, &sent, sizeof sent, LONG_TIME));
    }
    while (received < sent) {
        phantom_buffer message;
        OK(phantom_session_recv(both.server, LONG_TIME, &message));
        REQUIRE(message.len == sizeof received && memcmp(message.data, &received, sizeof received) == 0);
        phantom_buffer_free(&message);
        received++;
    }
    send_text(both.client, "the last");
    OK(phantom_session_flush_queue(both.client, LONG_TIME, &acknowledged));
    OK(phantom_session_flush_queue(both.client, LONG_TIME, &acknowledged));
    REQUIRE(acknowledged == 0);
    expect_text(both.server, "the last");
    part(both);
}

static void wrong_pin(void) {
    pair both = connected();
    phantom_signing_key key;
    phantom_session session = {7};
    unsigned char verifying[PHANTOM_VERIFYING_KEY_BYTES];
    char fingerprint[PHANTOM_FINGERPRINT_CHARS + 1], two[4096];
    const char *address = strchr(both.url, '@') + 1;
    size_t len = 0;
    OK(phantom_signing_key_generate(&key));
    OK(phantom_signing_key_verifying_key(key, verifying, sizeof verifying, &len));
    REQUIRE(len == sizeof verifying);
    OK(phantom_verifying_key_check(verifying, sizeof verifying, fingerprint, sizeof fingerprint, &len));
    REQUIRE(len == PHANTOM_FINGERPRINT_CHARS && strlen(fingerprint) == len);
    FAILS(PHANTOM_ERROR_SERVER_IDENTITY_MISMATCH, phantom_connect(address, fingerprint, LONG_TIME, &session));
    REQUIRE(session.id == 0);
    FAILS(PHANTOM_ERROR_CONFIG, phantom_connect(address, NULL, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_connect(address, "", LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_connect(both.url, fingerprint, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect(address, "phantom1:short", LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect("no address", fingerprint, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect("\xff\xfe", fingerprint, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_UNSUPPORTED, phantom_connect("kcp://127.0.0.1:1", fingerprint, LONG_TIME, &session));
    /* several pins, of which one matches */
    snprintf(two, sizeof two, "%s %.*s", fingerprint, (int)PHANTOM_FINGERPRINT_CHARS, strstr(both.url, "phantom1:"));
    OK(phantom_connect_pinned("127.0.0.1", (uint32_t)atoi(strrchr(both.url, ':') + 1), two, LONG_TIME, &session));
    OK(phantom_session_release(session));
    OK(phantom_session_release(accept_one(both.listener)));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect_pinned("127.0.0.1", 70000, two, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_NETWORK, phantom_connect_pinned("127.0.0.1", 1, two, LONG_TIME, &session));
    OK(phantom_signing_key_free(key));
    part(both);
}

static void keys(void) {
    unsigned char seed[PHANTOM_SIGNING_SEED_BYTES], copy[PHANTOM_SIGNING_SEED_BYTES];
    unsigned char one[PHANTOM_VERIFYING_KEY_BYTES], other[PHANTOM_VERIFYING_KEY_BYTES];
    phantom_signing_key key = {0};
    phantom_listener listener;
    size_t len = 0;
    memset(seed, 7, sizeof seed);
    memset(copy, 0, sizeof copy);
    OK(phantom_signing_key_from_seed(seed, sizeof seed, &key));
    OK(phantom_signing_key_to_seed(key, NULL, 0, &len));
    REQUIRE(len == sizeof seed);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_signing_key_to_seed(key, copy, sizeof copy - 1, &len));
    REQUIRE(len == sizeof seed && copy[0] == 0);
    OK(phantom_signing_key_to_seed(key, copy, sizeof copy, NULL));
    REQUIRE(memcmp(seed, copy, sizeof seed) == 0);
    OK(phantom_signing_key_verifying_key(key, one, sizeof one, NULL));
    OK(phantom_listener_bind_with_signing_key("127.0.0.1:0", key, LONG_TIME, &listener));
    OK(phantom_signing_key_free(key));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_signing_key_free(key));
    OK(phantom_listener_verifying_key(listener, other, sizeof other, NULL));
    REQUIRE(memcmp(one, other, sizeof one) == 0);
    OK(phantom_listener_release(listener));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_signing_key_from_seed(seed, 63, &key));
    REQUIRE(key.id == 0);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_verifying_key_check(seed, sizeof seed, NULL, 0, NULL));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_verifying_key_check(NULL, 0, NULL, 0, NULL));
    OK(phantom_verifying_key_check(one, sizeof one, NULL, 0, NULL));
}

static void config(void) {
    phantom_connect_options options;
    phantom_bind_options bind;
    phantom_negotiated negotiated;
    phantom_config config;
    phantom_listener listener;
    phantom_session session, accepted;
    char url[512];
    OK(phantom_config_preset(PHANTOM_CONFIG_PRESET_MOBILE, &config));
    OK(phantom_config_free(config));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_preset(99, &config));
    REQUIRE(config.id == 0);
    OK(phantom_config_preset(PHANTOM_CONFIG_PRESET_UNSPECIFIED, &config));
    OK(phantom_config_set_duration_ms(config, PHANTOM_CONFIG_KEEPALIVE_INTERVAL, 0));
    OK(phantom_config_set_duration_ms(config, PHANTOM_CONFIG_CONNECT_TIMEOUT, 1500));
    OK(phantom_config_set_u32(config, PHANTOM_CONFIG_SUITE, PHANTOM_CIPHER_SUITE_CHACHA20_POLY1305));
    OK(phantom_config_set_u32(config, PHANTOM_CONFIG_COOKIE, PHANTOM_COOKIE_POLICY_ALWAYS));
    OK(phantom_config_set_u64(config, PHANTOM_CONFIG_RECV_MEMORY, 64 << 20));
    OK(phantom_config_set_text(config, PHANTOM_CONFIG_PROVIDER, "auto"));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_config_set_duration_ms(config, PHANTOM_CONFIG_CONNECT_TIMEOUT, -5));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_config_set_u32(config, PHANTOM_CONFIG_BULK_CHUNK, 1));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_config_set_text(config, PHANTOM_CONFIG_PROVIDER, "homegrown"));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_u32(config, PHANTOM_CONFIG_PROVIDER, 1));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_u64(config, PHANTOM_CONFIG_BULK_CHUNK, 65536));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_duration_ms(config, PHANTOM_CONFIG_SUITE, 1));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_u32(config, PHANTOM_CONFIG_SUITE, 99));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_u32(config, 4711, 1));
    phantom_bind_options_init(&bind);
    bind.addresses = "127.0.0.1:0 tcp://127.0.0.1:0";
    bind.config = config;
    OK(phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    OK(phantom_listener_url(listener, 1, url, sizeof url, NULL));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_listener_url(listener, 2, url, sizeof url, NULL));
    OK(phantom_listener_url(listener, 1, url, sizeof url, NULL));
    phantom_connect_options_init(&options);
    options.target = url;
    options.config = config;
    OK(phantom_connect_ex(&options, LONG_TIME, &session));
    OK(phantom_config_free(config));
    accepted = accept_one(listener);
    send_text(session, "x");
    expect_text(accepted, "x");
    negotiated.struct_size = sizeof negotiated;
    OK(phantom_session_negotiated(accepted, &negotiated));
    REQUIRE(negotiated.suite == PHANTOM_CIPHER_SUITE_CHACHA20_POLY1305);
    REQUIRE(negotiated.receive_suite == PHANTOM_CIPHER_SUITE_CHACHA20_POLY1305 && negotiated.leg == PHANTOM_LEG_TCP);
    OK(phantom_session_release(session));
    OK(phantom_session_release(accepted));
    options.config.id = config.id;
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_connect_ex(&options, LONG_TIME, &session));
    OK(phantom_listener_release(listener));
}

static void looks(void) {
    pair both = connected();
    char id[PHANTOM_SESSION_ID_BYTES * 2 + 1], other[PHANTOM_SESSION_ID_BYTES * 2 + 1], address[128];
    unsigned char key[PHANTOM_VERIFYING_KEY_BYTES], served[PHANTOM_VERIFYING_KEY_BYTES];
    phantom_connection_state state = -1;
    phantom_buffer message = {NULL, 0};
    phantom_metrics metrics;
    phantom_status code = -1;
    int32_t ready = -1, peer_code = 0;
    uint64_t queued = 99, unacknowledged = 99;
    size_t len = 0;
    OK(phantom_session_await_ready(both.client, LONG_TIME));
    OK(phantom_session_await_ready(both.server, LONG_TIME));
    OK(phantom_session_state(both.client, &state));
    REQUIRE(state == PHANTOM_CONNECTION_STATE_CONNECTED);
    OK(phantom_session_is_data_ready(both.client, &ready));
    REQUIRE(ready == 1);
    OK(phantom_session_is_pqc_ready(both.client, &ready));
    REQUIRE(ready == 1);
    OK(phantom_session_id(both.client, id, sizeof id, &len));
    OK(phantom_session_id(both.server, other, sizeof other, NULL));
    REQUIRE(len == 64 && strcmp(id, other) == 0);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_id(both.client, id, 64, &len));
    OK(phantom_session_peer_addr(both.client, address, sizeof address, NULL));
    REQUIRE(strncmp(address, "127.0.0.1:", 10) == 0);
    OK(phantom_session_peer_identity(both.client, key, sizeof key, &len));
    OK(phantom_listener_verifying_key(both.listener, served, sizeof served, NULL));
    REQUIRE(len == sizeof key && memcmp(key, served, sizeof key) == 0);
    OK(phantom_session_peer_identity(both.server, key, sizeof key, &len));
    REQUIRE(len == 0);
    send_text(both.client, "counted");
    expect_text(both.server, "counted");
    OK(phantom_session_flush_queue(both.client, LONG_TIME, NULL));
    OK(phantom_session_queued_count(both.client, &queued));
    REQUIRE(queued == 0);
    metrics.struct_size = sizeof metrics;
    OK(phantom_session_metrics(both.server, &metrics));
    REQUIRE(metrics.messages_recv == 1 && metrics.active_sessions == 1 && metrics.struct_size == sizeof metrics);
    OK(phantom_listener_metrics(both.listener, &metrics));
    REQUIRE(metrics.handshakes_success == 1 && metrics.messages_recv == 1);
    OK(phantom_session_last_error(both.client, &code, &message, &peer_code, &unacknowledged));
    REQUIRE(code == PHANTOM_OK && message.len == 0 && peer_code == -1 && unacknowledged == 0);
    phantom_buffer_free(&message);
    part(both);
}

static void events_and_end(void) {
    pair both = connected();
    phantom_connection_state state = -1;
    phantom_buffer reason = {NULL, 0}, message;
    phantom_status code = -1;
    int32_t peer_code = 0, all = 0;
    OK(phantom_session_next_event(both.server, LONG_TIME, &state, &reason));
    REQUIRE(state == PHANTOM_CONNECTION_STATE_CONNECTED && reason.len == 0);
    phantom_buffer_free(&reason);
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_next_event(both.server, 0, &state, &reason));
    send_text(both.client, "one");
    send_text(both.client, "two");
    OK(phantom_session_disconnect(both.client, 42, LONG_TIME, &all));
    REQUIRE(all == 1);
    OK(phantom_session_disconnect(both.client, 42, LONG_TIME, &all));
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_send(both.client, "x", 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_recv(both.client, LONG_TIME, &message));
    REQUIRE(message.data == NULL && message.len == 0);
    expect_text(both.server, "one");
    do {
        OK(phantom_session_next_event(both.server, LONG_TIME, &state, &reason));
        REQUIRE(reason.len > 0);
        phantom_buffer_free(&reason);
    } while (state != PHANTOM_CONNECTION_STATE_CLOSED);
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_next_event(both.server, LONG_TIME, &state, &reason));
    expect_text(both.server, "two");
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_recv(both.server, LONG_TIME, &message));
    OK(phantom_session_last_error(both.server, &code, &message, &peer_code, NULL));
    REQUIRE(code == PHANTOM_OK && peer_code == 42);
    phantom_buffer_free(&message);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_disconnect(both.server, 65536, LONG_TIME, &all));
    part(both);
}

static void timeouts(void) {
    pair both = connected();
    phantom_buffer message;
    phantom_outcome outcome;
    phantom_session session;
    static char block[1 << 20];
    phantom_status sent;
    int count = 0;
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_recv(both.client, 0, &message));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_recv(both.client, 30, &message));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_recv(both.client, -2, &message));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_recv(both.client, INT64_MIN, &message));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_listener_accept(both.listener, 0, &outcome));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_listener_accept(both.listener, 30, &outcome));
    REQUIRE(outcome.id == 0);
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_connect(both.url, NULL, 0, &session));
    /* nobody reads: the queue fills, and what did not fit was not queued */
    do {
        sent = phantom_session_send(both.client, block, sizeof block, 200);
        count += sent == PHANTOM_OK;
    } while (sent == PHANTOM_OK && count < 200);
    EXPECT(PHANTOM_ERROR_TIMEOUT, sent);
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_flush_queue(both.client, 10, NULL));
    for (; count > 0; count--) {
        OK(phantom_session_recv(both.server, LONG_TIME, &message));
        REQUIRE(message.len == sizeof block);
        phantom_buffer_free(&message);
    }
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_recv(both.server, 50, &message));
    send_text(both.client, "and on");
    OK(phantom_session_recv(both.server, INT64_MAX, &message));
    phantom_buffer_free(&message);
    part(both);
}

static void handles(void) {
    pair both = connected();
    phantom_session foreign = {both.listener.id}, zero = {0}, wild = {UINT64_MAX}, near = {both.client.id + 100};
    phantom_buffer message;
    phantom_outcome outcome = {0};
    phantom_session session;
    int32_t ready = 5;
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_send(foreign, "x", 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_recv(zero, LONG_TIME, &message));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_is_data_ready(wild, &ready));
    REQUIRE(ready == 0);
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_release(near));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_retain(zero));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_outcome_session(outcome, &session));
    REQUIRE(session.id == 0);
    /* a handle counts */
    OK(phantom_session_retain(both.client));
    OK(phantom_session_release(both.client));
    send_text(both.client, "still there");
    expect_text(both.server, "still there");
    OK(phantom_session_release(both.client));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_send(both.client, "x", 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_release(both.client));
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_recv(both.server, LONG_TIME, &message));
    OK(phantom_session_release(both.server));
    /* outcomes: each call makes a handle of its own, and a session that nobody took ends with the outcome */
    OK(phantom_connect(both.url, NULL, LONG_TIME, &both.client));
    OK(phantom_listener_accept(both.listener, LONG_TIME, &outcome));
    OK(phantom_outcome_session(outcome, &both.server));
    OK(phantom_outcome_session(outcome, &session));
    REQUIRE(session.id != both.server.id);
    OK(phantom_outcome_release(outcome));
    OK(phantom_session_release(session));
    send_text(both.client, "taken");
    expect_text(both.server, "taken");
    OK(phantom_session_release(both.server));
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_recv(both.client, LONG_TIME, &message));
    OK(phantom_session_release(both.client));
    OK(phantom_connect(both.url, NULL, LONG_TIME, &both.client));
    OK(phantom_listener_accept(both.listener, LONG_TIME, &outcome));
    OK(phantom_outcome_release(outcome));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_outcome_release(outcome));
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_session_recv(both.client, LONG_TIME, &message));
    OK(phantom_session_release(both.client));
    OK(phantom_listener_release(both.listener));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_listener_shutdown(both.listener));
}

static void bad_arguments(void) {
    pair both = connected();
    phantom_buffer message = {(void *)1, 5};
    phantom_session session = {5};
    phantom_connect_options options;
    phantom_metrics metrics;
    char id[80] = "x";
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_send(both.client, NULL, 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_send(both.client, "x", SIZE_MAX, LONG_TIME));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_send(both.client, "x", (size_t)-5, LONG_TIME));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_send(both.client, id, (16u << 20) + 1, LONG_TIME));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_recv(both.client, 0, NULL));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_recv(both.client, 0, &message));
    REQUIRE(message.data == NULL && message.len == 0);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_id(both.client, NULL, 5, NULL));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_id(both.client, id, SIZE_MAX, NULL));
    REQUIRE(id[0] == '\0');
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect(NULL, NULL, LONG_TIME, &session));
    REQUIRE(session.id == 0);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect(both.url, NULL, LONG_TIME, NULL));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect_ex(NULL, LONG_TIME, &session));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_listener_bind(NULL, LONG_TIME, &both.listener));
    OK(phantom_session_is_data_ready(both.client, NULL));
    OK(phantom_session_flush_queue(both.client, LONG_TIME, NULL));
    phantom_connect_options_init(&options);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect_ex(&options, LONG_TIME, &session));
    options.struct_size = 0;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect_ex(&options, LONG_TIME, &session));
    options.struct_size = SIZE_MAX;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_connect_ex(&options, LONG_TIME, &session));
    metrics.struct_size = 3;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_metrics(both.client, &metrics));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_metrics(both.client, NULL));
    phantom_buffer_free(NULL);
    phantom_buffer_free(&message);
    OK(phantom_session_release(both.client));
    OK(phantom_session_release(both.server));
}

/* Programs that were compiled with an older or a newer header. */
static void struct_sizes(void) {
    pair both = connected();
    struct older {
        size_t struct_size;
        uint64_t packets_sent;
    } older = {sizeof older, 77};
    struct newer {
        phantom_metrics known;
        uint64_t beyond;
    } newer;
    struct newer_options {
        phantom_connect_options known;
        const char *beyond;
    } options;
    struct older_options {
        size_t struct_size;
        const char *target;
    } short_options = {sizeof short_options, both.url};
    phantom_session session;
    send_text(both.client, "x");
    expect_text(both.server, "x");
    OK(phantom_session_metrics(both.client, (phantom_metrics *)&older));
    REQUIRE(older.struct_size == sizeof older && older.packets_sent > 0 && older.packets_sent != 77);
    memset(&newer, 0x5A, sizeof newer);
    newer.known.struct_size = sizeof newer;
    OK(phantom_session_metrics(both.client, &newer.known));
    REQUIRE(newer.known.packets_sent > 0 && newer.beyond == 0 && newer.known.struct_size == sizeof newer);
    OK(phantom_connect_ex((const phantom_connect_options *)&short_options, LONG_TIME, &session));
    OK(phantom_session_release(session));
    OK(phantom_session_release(accept_one(both.listener)));
    memset(&options, 0, sizeof options);
    options.known.struct_size = sizeof options;
    options.known.target = both.url;
    OK(phantom_connect_ex(&options.known, LONG_TIME, &session));
    OK(phantom_session_release(session));
    OK(phantom_session_release(accept_one(both.listener)));
    options.beyond = "what this library has never heard of";
    FAILS(PHANTOM_ERROR_UNSUPPORTED, phantom_connect_ex(&options.known, LONG_TIME, &session));
    part(both);
}

/* --- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 16, EACH = 300 };

static pair shared;
static int taken[THREADS][EACH];
static pthread_mutex_t taken_lock = PTHREAD_MUTEX_INITIALIZER;

static void *send_many(void *argument) {
    int32_t mine[2] = {(int32_t)(intptr_t)argument, 0};
    for (; mine[1] < EACH; mine[1]++) {
        OK(phantom_session_send(shared.client, mine, sizeof mine, LONG_TIME));
    }
    return NULL;
}

static void *receive_many(void *argument) {
    int count;
    (void)argument;
    for (count = 0; count < EACH; count++) {
        phantom_buffer message;
        int32_t found[2];
        OK(phantom_session_recv(shared.server, LONG_TIME, &message));
        REQUIRE(message.len == sizeof found);
        memcpy(found, message.data, sizeof found);
        phantom_buffer_free(&message);
        pthread_mutex_lock(&taken_lock);
        taken[found[0]][found[1]]++;
        pthread_mutex_unlock(&taken_lock);
    }
    return NULL;
}

static void threads(void) {
    pthread_t all[2 * THREADS];
    int at, each;
    shared = connected();
    for (at = 0; at < THREADS; at++) {
        pthread_create(&all[at], NULL, send_many, (void *)(intptr_t)at);
        pthread_create(&all[THREADS + at], NULL, receive_many, NULL);
    }
    for (at = 0; at < 2 * THREADS; at++) {
        pthread_join(all[at], NULL);
    }
    for (at = 0; at < THREADS; at++) {
        for (each = 0; each < EACH; each++) {
            REQUIRE(taken[at][each] == 1);
        }
    }
    part(shared);
}

static void *receive_until_closed(void *argument) {
    phantom_status status;
    phantom_buffer message;
    (void)argument;
    do {
        status = phantom_session_recv(shared.client, PHANTOM_NO_TIMEOUT, &message);
        phantom_buffer_free(&message);
    } while (status == PHANTOM_OK);
    REQUIRE(status == PHANTOM_ERROR_CONNECTION_CLOSED || status == PHANTOM_ERROR_SESSION_NOT_FOUND);
    return NULL;
}

static void *send_until_closed(void *argument) {
    static const char block[10000];
    phantom_status status;
    (void)argument;
    do {
        status = phantom_session_send(shared.client, block, sizeof block, PHANTOM_NO_TIMEOUT);
    } while (status == PHANTOM_OK);
    REQUIRE(status == PHANTOM_ERROR_CONNECTION_CLOSED || status == PHANTOM_ERROR_SESSION_CLOSING ||
            status == PHANTOM_ERROR_SESSION_NOT_FOUND);
    return NULL;
}

static void *disconnect_now(void *argument) {
    (void)argument;
    OK(phantom_session_disconnect(shared.client, 0, 100, NULL));
    return NULL;
}

static void *accept_until_closed(void *argument) {
    phantom_outcome outcome;
    (void)argument;
    FAILS(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_listener_accept(shared.listener, PHANTOM_NO_TIMEOUT, &outcome));
    return NULL;
}

/* Sessions and listeners that are closed while others wait in them, by several at once. */
static void concurrent_close(void) {
    int round, at;
    for (round = 0; round < 5; round++) {
        pthread_t all[10];
        phantom_buffer message;
        int32_t down = 0;
        shared = connected();
        for (at = 0; at < 3; at++) {
            pthread_create(&all[at], NULL, receive_until_closed, NULL);
            pthread_create(&all[3 + at], NULL, send_until_closed, NULL);
        }
        pthread_create(&all[6], NULL, accept_until_closed, NULL);
        pthread_create(&all[7], NULL, accept_until_closed, NULL);
        OK(phantom_session_recv(shared.server, LONG_TIME, &message));
        phantom_buffer_free(&message);
        pthread_create(&all[8], NULL, disconnect_now, NULL);
        pthread_create(&all[9], NULL, disconnect_now, NULL);
        OK(phantom_listener_shutdown(shared.listener));
        OK(phantom_listener_shutdown(shared.listener));
        OK(phantom_listener_is_shutting_down(shared.listener, &down));
        REQUIRE(down == 1);
        for (at = 0; at < 10; at++) {
            pthread_join(all[at], NULL);
        }
        OK(phantom_session_release(shared.client));
        OK(phantom_session_release(shared.server));
        OK(phantom_listener_release(shared.listener));
    }
}

/* A handle that is released under the hands of those who use it. */
static void concurrent_release(void) {
    int round, at;
    for (round = 0; round < 5; round++) {
        pthread_t all[6];
        shared = connected();
        for (at = 0; at < 3; at++) {
            pthread_create(&all[at], NULL, receive_until_closed, NULL);
            pthread_create(&all[3 + at], NULL, send_until_closed, NULL);
        }
        OK(phantom_session_release(shared.server));
        OK(phantom_session_release(shared.client));
        for (at = 0; at < 6; at++) {
            pthread_join(all[at], NULL);
        }
        OK(phantom_listener_release(shared.listener));
    }
}

/* The text of an error belongs to the thread whose call failed. */
static void *fail_here(void *argument) {
    phantom_session none = {0};
    (void)argument;
    REQUIRE(phantom_last_error_message()[0] == '\0');
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_session_release(none));
    REQUIRE(strstr(phantom_last_error_message(), "zero") != NULL);
    return NULL;
}

static void error_texts(void) {
    pthread_t thread;
    phantom_config config;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_preset(99, &config));
    pthread_create(&thread, NULL, fail_here, NULL);
    pthread_join(thread, NULL);
    REQUIRE(strstr(phantom_last_error_message(), "99") != NULL);
    OK(phantom_config_preset(PHANTOM_CONFIG_PRESET_IOT, &config));
    REQUIRE(strstr(phantom_last_error_message(), "99") != NULL);
    OK(phantom_config_free(config));
}

/* Threads come and go, each with its first and last call. */
static void *call_once(void *argument) {
    int32_t ready = 0;
    (void)argument;
    OK(phantom_session_is_data_ready(shared.client, &ready));
    REQUIRE(ready == 1);
    return NULL;
}

static void short_threads(void) {
    int at;
    shared = connected();
    for (at = 0; at < 500; at++) {
        pthread_t thread;
        pthread_create(&thread, NULL, call_once, NULL);
        pthread_join(thread, NULL);
    }
    part(shared);
}

/* Many buffers held at once, freed in another order and by another thread than they came. */
static phantom_buffer kept[200];

static void *free_kept(void *argument) {
    int at;
    (void)argument;
    for (at = 199; at >= 0; at -= 2) {
        phantom_buffer_free(&kept[at]);
    }
    return NULL;
}

static void buffers(void) {
    static char block[100000];
    pair both = connected();
    pthread_t thread;
    int at;
    for (at = 0; at < 200; at++) {
        memset(block, at, sizeof block);
        OK(phantom_session_send(both.client, block, (size_t)at * 500, LONG_TIME));
        OK(phantom_session_recv(both.server, LONG_TIME, &kept[at]));
    }
    for (at = 0; at < 200; at++) {
        memset(block, at, sizeof block);
        REQUIRE(kept[at].len == (size_t)at * 500 && memcmp(kept[at].data, block, kept[at].len) == 0);
    }
    pthread_create(&thread, NULL, free_kept, NULL);
    for (at = 0; at < 200; at += 2) {
        phantom_buffer_free(&kept[at]);
    }
    pthread_join(thread, NULL);
    /* equal ones, of lengths of which the core has but one object */
    for (at = 0; at < 200; at++) {
        OK(phantom_session_send(both.client, "x", (size_t)at % 2, LONG_TIME));
        OK(phantom_session_recv(both.server, LONG_TIME, &kept[at]));
    }
    for (at = 0; at < 200; at++) {
        REQUIRE(kept[at].len == (size_t)at % 2 && strcmp(kept[at].data, at % 2 ? "x" : "") == 0);
        phantom_buffer_free(&kept[at]);
    }
    send_text(both.client, "still well");
    expect_text(both.server, "still well");
    part(both);
}

static void expect_bytes(phantom_stream stream, const char *text) {
    size_t got = 0;
    while (got < strlen(text)) {
        phantom_buffer piece;
        int32_t end = -1;
        OK(phantom_stream_recv(stream, LONG_TIME, &piece, &end));
        REQUIRE(!end && piece.len <= strlen(text) - got && memcmp(piece.data, text + got, piece.len) == 0);
        got += piece.len;
        phantom_buffer_free(&piece);
    }
}

static void expect_end(phantom_stream stream) {
    phantom_buffer piece = {NULL, 7};
    int32_t end = 0;
    OK(phantom_stream_recv(stream, LONG_TIME, &piece, &end));
    REQUIRE(end == 1 && piece.len == 0);
    phantom_buffer_free(&piece);
}

/* A stream of the client, and the server's end of it. */
static void open_pair(pair both, phantom_stream *one, phantom_stream *other) {
    OK(phantom_session_open_stream(both.client, 0, LONG_TIME, one));
    OK(phantom_session_accept_stream(both.server, LONG_TIME, other));
}

static void streams(void) {
    pair both = connected();
    phantom_stream mine, theirs;
    uint32_t id = 0, other = 1, priority = 0, most = 0;
    size_t size = 3 << 20, got = 0;
    char *data = malloc(size);
    OK(phantom_session_open_stream(both.client, 9, LONG_TIME, &mine));
    OK(phantom_session_accept_stream(both.server, LONG_TIME, &theirs));
    OK(phantom_stream_id(mine, &id));
    OK(phantom_stream_id(theirs, &other));
    REQUIRE(id == other && id == 3);
    OK(phantom_stream_priority(mine, &priority));
    REQUIRE(priority == 9);
    OK(phantom_stream_set_priority(mine, 4294967295u));
    OK(phantom_stream_priority(mine, &priority));
    REQUIRE(priority == 4294967295u);
    OK(phantom_stream_send_reliable(theirs, "first word", 10, LONG_TIME)); /* who accepted speaks first */
    expect_bytes(mine, "first word");
    OK(phantom_stream_max_unreliable_size(mine, &most));
    REQUIRE(most >= 256 && most < size);
    OK(phantom_stream_send_unreliable(mine, "a piece", 7, LONG_TIME));
    expect_bytes(theirs, "a piece");
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_stream_send_unreliable(mine, data, (size_t)most + 1, LONG_TIME));
    memset(data, 'x', size);
    OK(phantom_stream_send_reliable(mine, data, size, LONG_TIME));
    OK(phantom_stream_send_reliable(mine, NULL, 0, LONG_TIME));
    OK(phantom_stream_finish(mine));
    OK(phantom_stream_finish(mine));
    FAILS(PHANTOM_ERROR_STREAM_CLOSED, phantom_stream_send_reliable(mine, "late", 4, LONG_TIME));
    while (got < size) {
        phantom_buffer piece;
        OK(phantom_stream_recv(theirs, LONG_TIME, &piece, NULL));
        REQUIRE(piece.len > 0 && piece.len <= size - got && memcmp(piece.data, data, piece.len) == 0);
        got += piece.len;
        phantom_buffer_free(&piece);
    }
    expect_end(theirs);
    expect_end(theirs);
    send_text(both.client, "messages go on");
    expect_text(both.server, "messages go on");
    OK(phantom_stream_send_reliable(theirs, "and back", 8, LONG_TIME));
    expect_bytes(mine, "and back");
    OK(phantom_stream_release(mine));
    OK(phantom_stream_release(theirs));
    free(data);
    part(both);
}

static void stream_ends(void) {
    pair both = connected();
    phantom_stream mine, theirs;
    phantom_buffer piece = {NULL, 0};
    phantom_status status;
    int32_t code = 7, end = 0;
    open_pair(both, &mine, &theirs);
    OK(phantom_stream_reset_code(theirs, &code));
    REQUIRE(code == -1);
    OK(phantom_stream_send_reliable(mine, "x", 1, LONG_TIME));
    expect_bytes(theirs, "x");
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_stream_recv(theirs, 10, &piece, &end));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_stream_reset(mine, 65536));
    OK(phantom_stream_reset(mine, 77));
    FAILS(PHANTOM_ERROR_STREAM_RESET, phantom_stream_recv(theirs, LONG_TIME, &piece, &end));
    REQUIRE(piece.data == NULL && piece.len == 0);
    OK(phantom_stream_reset_code(theirs, &code));
    REQUIRE(code == 77);
    FAILS(PHANTOM_ERROR_STREAM_RESET, phantom_stream_recv(theirs, LONG_TIME, &piece, &end));
    OK(phantom_stream_stop(mine, 11));
    do {
        status = phantom_stream_send_reliable(theirs, "unwanted", 8, LONG_TIME);
    } while (status == PHANTOM_OK);
    EXPECT(PHANTOM_ERROR_STREAM_RESET, status);
    OK(phantom_stream_reset_code(theirs, &code));
    REQUIRE(code == 11);
    OK(phantom_stream_release(mine));
    OK(phantom_stream_release(theirs));

    /* released before the peer's half was read to its end: stopped, and reset unless it was finished */
    open_pair(both, &mine, &theirs);
    OK(phantom_stream_send_reliable(mine, "x", 1, LONG_TIME));
    expect_bytes(theirs, "x");
    OK(phantom_stream_release(mine));
    FAILS(PHANTOM_ERROR_STREAM_RESET, phantom_stream_recv(theirs, LONG_TIME, &piece, &end));
    OK(phantom_stream_release(theirs));
    open_pair(both, &mine, &theirs);
    OK(phantom_stream_send_reliable(mine, "whole", 5, LONG_TIME));
    OK(phantom_stream_finish(mine));
    OK(phantom_stream_release(mine));
    expect_bytes(theirs, "whole");
    expect_end(theirs);
    OK(phantom_stream_release(theirs));
    /* released after its end: finished */
    open_pair(both, &mine, &theirs);
    OK(phantom_stream_finish(theirs));
    OK(phantom_stream_send_reliable(mine, "whole", 5, LONG_TIME));
    expect_end(mine);
    OK(phantom_stream_release(mine));
    expect_bytes(theirs, "whole");
    expect_end(theirs);
    OK(phantom_stream_release(theirs));
    part(both);
}

static void *read_to_the_end(void *argument) {
    phantom_buffer piece;
    int32_t end;
    EXPECT(PHANTOM_ERROR_CONNECTION_CLOSED, phantom_stream_recv(*(phantom_stream *)argument, LONG_TIME, &piece, &end));
    return NULL;
}

static void stream_handles(void) {
    pair both = connected();
    phantom_stream mine, theirs, none = {0}, stale, more = {7};
    phantom_buffer piece;
    uint32_t number;
    int32_t end;
    int at;
    pthread_t thread;
    phantom_stream *all = calloc(256, sizeof *all);
    open_pair(both, &mine, &theirs);
    stale = mine;
    OK(phantom_stream_release(mine));
    for (at = 0; at < 2; at++) {
        phantom_stream bad = at ? none : stale;
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_id(bad, &number));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_priority(bad, &number));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_max_unreliable_size(bad, &number));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_send_reliable(bad, "x", 1, 0));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_send_unreliable(bad, "x", 1, 0));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_recv(bad, 0, &piece, &end));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_reset_code(bad, &end));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_set_priority(bad, 1));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_finish(bad));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_reset(bad, 1));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_stop(bad, 1));
        FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_release(bad));
    }
    more.id = both.client.id; /* of another kind */
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_stream_finish(more));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_stream_send_reliable(theirs, NULL, 3, LONG_TIME));
    OK(phantom_stream_release(theirs));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_accept_stream(both.client, 10, &more));
    REQUIRE(more.id == 0);
    for (at = 0; at < 256; at++) {
        OK(phantom_session_open_stream(both.client, 0, LONG_TIME, &all[at]));
    }
    FAILS(PHANTOM_ERROR_STREAM_LIMIT, phantom_session_open_stream(both.client, 0, 0, &more));
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_open_stream(both.client, 0, 50, &more));
    REQUIRE(more.id == 0);
    /* the end of the session wakes who waits; handles stay until they are released */
    OK(phantom_session_accept_stream(both.server, LONG_TIME, &theirs));
    pthread_create(&thread, NULL, read_to_the_end, &theirs);
    OK(phantom_session_disconnect(both.client, 0, 1000, NULL));
    pthread_join(thread, NULL);
    OK(phantom_stream_id(all[255], &number));
    for (at = 0; at < 256; at++) {
        OK(phantom_stream_release(all[at]));
    }
    OK(phantom_stream_release(theirs));
    free(all);
    part(both);
}

enum { ROOM_PIECE = 3 << 20, ROOM_PIECES = 6, ROOM_MESSAGES = 24 };

static void *fill_stream(void *argument) {
    char *data = calloc(1, ROOM_PIECE);
    int at;
    for (at = 0; at < ROOM_PIECES; at++) {
        OK(phantom_stream_send_reliable(*(phantom_stream *)argument, data, ROOM_PIECE, LONG_TIME));
    }
    OK(phantom_stream_finish(*(phantom_stream *)argument));
    free(data);
    return NULL;
}

static void *fill_session(void *argument) {
    char *data = calloc(1, 1 << 20);
    int at;
    for (at = 0; at < ROOM_MESSAGES; at++) {
        OK(phantom_session_send(*(phantom_session *)argument, data, 1 << 20, LONG_TIME));
    }
    free(data);
    return NULL;
}

static void *read_messages(void *argument) {
    int at;
    for (at = 0; at < ROOM_MESSAGES; at++) {
        phantom_buffer message;
        OK(phantom_session_recv(*(phantom_session *)argument, LONG_TIME, &message));
        phantom_buffer_free(&message);
    }
    return NULL;
}

/* Both wait for room in the same session, for a stream and for messages, and both get it. */
static void stream_room(void) {
    pair both = connected();
    phantom_stream mine, theirs;
    pthread_t threads[3];
    size_t got = 0;
    int32_t end = 0;
    int at;
    open_pair(both, &mine, &theirs);
    pthread_create(&threads[0], NULL, fill_stream, &mine);
    pthread_create(&threads[1], NULL, fill_session, &both.client);
    pthread_create(&threads[2], NULL, read_messages, &both.server);
    while (!end) {
        phantom_buffer piece;
        OK(phantom_stream_recv(theirs, LONG_TIME, &piece, &end));
        got += piece.len;
        phantom_buffer_free(&piece);
    }
    REQUIRE(got == (size_t)ROOM_PIECE * ROOM_PIECES);
    for (at = 0; at < 3; at++) {
        pthread_join(threads[at], NULL);
    }
    OK(phantom_stream_release(mine));
    OK(phantom_stream_release(theirs));
    part(both);
}

static void rekeying(void) {
    pair both = connected();
    phantom_session_event event;
    unsigned char one[64], other[64], third[64];
    uint32_t epoch = 0;
    size_t len = 0;
    send_text(both.client, "x");
    expect_text(both.server, "x");
    OK(phantom_session_export_keying_material(both.client, "a label", 64, one, sizeof one, &len));
    REQUIRE(len == 64);
    OK(phantom_session_export_keying_material(both.server, "a label", 64, other, sizeof other, NULL));
    REQUIRE(memcmp(one, other, 64) == 0);
    OK(phantom_session_rekey(both.client, LONG_TIME, &epoch));
    REQUIRE(epoch == 1);
    send_text(both.client, "under new keys");
    expect_text(both.server, "under new keys");
    send_text(both.server, "back");
    expect_text(both.client, "back");
    OK(phantom_session_export_keying_material(both.client, "a label", 64, third, sizeof third, NULL));
    REQUIRE(memcmp(one, third, 64) == 0);
    OK(phantom_session_export_keying_material(both.client, "another", 64, third, sizeof third, NULL));
    REQUIRE(memcmp(one, third, 64) != 0);
    OK(phantom_session_export_keying_material(both.client, "a label", 0, NULL, 0, &len));
    REQUIRE(len == 32);
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_export_keying_material(both.client, "x", 64, one, 63, &len));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_session_export_keying_material(both.client, "x", 8161, NULL, 0, NULL));
    phantom_session_event_init(&event);
    OK(phantom_session_next_event_ex(both.server, LONG_TIME, &event));
    REQUIRE(event.kind == PHANTOM_SESSION_EVENT_KIND_STATE_CHANGED);
    REQUIRE(event.state == PHANTOM_CONNECTION_STATE_CONNECTED && event.reason.len == 0);
    phantom_buffer_free(&event.reason);
    OK(phantom_session_next_event_ex(both.server, LONG_TIME, &event));
    REQUIRE(event.kind == PHANTOM_SESSION_EVENT_KIND_REKEYED && event.epoch == 1 && event.by_peer == 1);
    REQUIRE(event.reason.len > 0 && event.state == PHANTOM_CONNECTION_STATE_CONNECTED);
    phantom_buffer_free(&event.reason);
    FAILS(PHANTOM_ERROR_TIMEOUT, phantom_session_next_event_ex(both.server, 10, &event));
    part(both);
}

static void identities(void) {
    phantom_bind_options bind;
    phantom_connect_options options;
    phantom_signing_key key, other;
    phantom_listener listener;
    phantom_session session, accepted;
    phantom_outcome outcome;
    unsigned char mine[PHANTOM_VERIFYING_KEY_BYTES], shown[PHANTOM_VERIFYING_KEY_BYTES];
    char fingerprint[PHANTOM_FINGERPRINT_CHARS + 1], url[512];
    size_t len = 0;
    OK(phantom_signing_key_generate(&key));
    OK(phantom_signing_key_generate(&other));
    OK(phantom_signing_key_verifying_key(key, mine, sizeof mine, NULL));
    OK(phantom_verifying_key_check(mine, sizeof mine, fingerprint, sizeof fingerprint, NULL));
    phantom_bind_options_init(&bind);
    bind.addresses = "127.0.0.1:0";
    bind.authorized_clients = fingerprint; /* goes with REQUIRED only */
    FAILS(PHANTOM_ERROR_CONFIG, phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    bind.client_authentication = PHANTOM_CLIENT_AUTHENTICATION_REQUIRED;
    bind.authorized_clients_file = "/nowhere"; /* both */
    FAILS(PHANTOM_ERROR_CONFIG, phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    bind.authorized_clients = NULL; /* a file that is not there */
    FAILS(PHANTOM_ERROR_CONFIG, phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    bind.authorized_clients_file = NULL; /* neither */
    FAILS(PHANTOM_ERROR_CONFIG, phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    bind.client_authentication = 99;
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    bind.client_authentication = PHANTOM_CLIENT_AUTHENTICATION_REQUIRED;
    bind.authorized_clients = fingerprint;
    OK(phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    OK(phantom_listener_url(listener, 0, url, sizeof url, NULL));
    phantom_connect_options_init(&options);
    options.target = url;
    options.identity = key;
    OK(phantom_connect_ex(&options, LONG_TIME, &session));
    OK(phantom_listener_accept(listener, LONG_TIME, &outcome));
    OK(phantom_outcome_client_identity(outcome, shown, sizeof shown, &len));
    REQUIRE(len == sizeof shown && memcmp(shown, mine, len) == 0);
    OK(phantom_outcome_session(outcome, &accepted));
    OK(phantom_outcome_release(outcome));
    OK(phantom_session_peer_identity(accepted, shown, sizeof shown, &len));
    REQUIRE(len == sizeof shown && memcmp(shown, mine, len) == 0);
    send_text(session, "let in");
    expect_text(accepted, "let in");
    OK(phantom_session_release(session));
    OK(phantom_session_release(accepted));
    options.identity = other;
    FAILS(PHANTOM_ERROR_CLIENT_AUTH, phantom_connect_ex(&options, LONG_TIME, &session));
    REQUIRE(session.id == 0);
    OK(phantom_signing_key_free(key));
    OK(phantom_signing_key_free(other));
    FAILS(PHANTOM_ERROR_SESSION_NOT_FOUND, phantom_connect_ex(&options, LONG_TIME, &session));
    OK(phantom_listener_release(listener));
}

static void versions(void) {
    phantom_config config;
    phantom_bind_options bind;
    phantom_connect_options options;
    phantom_listener listener;
    phantom_session session, accepted;
    phantom_stream stream;
    phantom_negotiated negotiated;
    char url[512];
    OK(phantom_config_preset(PHANTOM_CONFIG_PRESET_UNSPECIFIED, &config));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_text(config, PHANTOM_CONFIG_ACCEPT_VERSIONS, "one"));
    FAILS(PHANTOM_ERROR_VALIDATION, phantom_config_set_text(config, PHANTOM_CONFIG_ACCEPT_VERSIONS, ""));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_config_set_text(config, PHANTOM_CONFIG_ACCEPT_VERSIONS, "9"));
    FAILS(PHANTOM_ERROR_CONFIG, phantom_config_set_u32(config, PHANTOM_CONFIG_OFFER_VERSION, 9));
    OK(phantom_config_set_text(config, PHANTOM_CONFIG_ACCEPT_VERSIONS, "1 2"));
    OK(phantom_config_set_u32(config, PHANTOM_CONFIG_OFFER_VERSION, 1));
    OK(phantom_config_set_u32(config, PHANTOM_CONFIG_PADDING, PHANTOM_PADDING_POLICY_PADE));
    OK(phantom_config_set_duration_ms(config, PHANTOM_CONFIG_JITTER, 5));
    OK(phantom_config_set_duration_ms(config, PHANTOM_CONFIG_COVER_INTERVAL, 0));
    phantom_bind_options_init(&bind);
    bind.addresses = "127.0.0.1:0";
    bind.config = config;
    OK(phantom_listener_bind_ex(&bind, LONG_TIME, &listener));
    OK(phantom_listener_url(listener, 0, url, sizeof url, NULL));
    phantom_connect_options_init(&options);
    options.target = url;
    options.config = config;
    OK(phantom_connect_ex(&options, LONG_TIME, &session));
    accepted = accept_one(listener);
    send_text(session, "of version 1");
    expect_text(accepted, "of version 1");
    phantom_negotiated_init(&negotiated);
    OK(phantom_session_negotiated(session, &negotiated));
    REQUIRE(negotiated.version == 1);
    FAILS(PHANTOM_ERROR_UNSUPPORTED, phantom_session_rekey(session, LONG_TIME, NULL));
    OK(phantom_session_open_stream(session, 0, LONG_TIME, &stream));
    FAILS(PHANTOM_ERROR_UNSUPPORTED, phantom_stream_reset(stream, 1));
    FAILS(PHANTOM_ERROR_UNSUPPORTED, phantom_stream_stop(stream, 1));
    OK(phantom_stream_release(stream)); /* finishes, as nothing else is there */
    OK(phantom_session_accept_stream(accepted, LONG_TIME, &stream));
    expect_end(stream);
    OK(phantom_stream_release(stream));
    OK(phantom_session_release(session));
    OK(phantom_session_release(accepted));
    OK(phantom_listener_release(listener));
    OK(phantom_config_free(config));
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"sizes", sizes},
    {"echo", echo},
    {"order", order},
    {"wrong_pin", wrong_pin},
    {"keys", keys},
    {"config", config},
    {"looks", looks},
    {"events_and_end", events_and_end},
    {"timeouts", timeouts},
    {"handles", handles},
    {"bad_arguments", bad_arguments},
    {"struct_sizes", struct_sizes},
    {"threads", threads},
    {"concurrent_close", concurrent_close},
    {"concurrent_release", concurrent_release},
    {"error_texts", error_texts},
    {"short_threads", short_threads},
    {"buffers", buffers},
    {"streams", streams},
    {"stream_ends", stream_ends},
    {"stream_handles", stream_handles},
    {"stream_room", stream_room},
    {"rekeying", rekeying},
    {"identities", identities},
    {"versions", versions},
};

int main(int argc, char **argv) {
    size_t count = sizeof cases / sizeof *cases, at;
    int argument, done = 0;
    for (argument = 1; argument < argc; argument++) {
        for (at = 0; at < count; at++) {
            if (strcmp(argv[argument], "all") == 0 || strcmp(argv[argument], cases[at].name) == 0) {
                cases[at].run();
                done++;
            }
        }
    }
    REQUIRE(done > 0);
    OK(phantom_fini(LONG_TIME));
    printf("%d\n", done);
    return 0;
}
