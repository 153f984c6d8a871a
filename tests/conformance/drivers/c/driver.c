/* Driver of the conformance suite (tests/conformance/README.md): the C library, each command in a thread of its own. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <phantom.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MISSING (-1000) /* no status of the library: the command is not offered, the text says why */
#define FAULT (-1001)   /* the driver or the case is wrong */

/* --- SHA-256 ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
} sha256;

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t word, int by) { return word >> by | word << (32 - by); }

static void sha256_block(sha256 *sha, const uint8_t *block) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        const uint8_t *at = block + 4 * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t low = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    memcpy(v, sha->state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25);
        uint32_t t1 = v[7] + e + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
        uint32_t a = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
        uint32_t t2 = a + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) {
        sha->state[i] += v[i];
    }
}

static void sha256_init(sha256 *sha) {
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, start, sizeof start);
    sha->length = 0;
}

static void sha256_add(sha256 *sha, const void *data, size_t len) {
    const uint8_t *at = data;
    while (len > 0) {
        size_t have = sha->length % 64, take = 64 - have < len ? 64 - have : len;
        memcpy(sha->block + have, at, take);
        sha->length += take;
        at += take;
        len -= take;
        if (sha->length % 64 == 0) sha256_block(sha, sha->block);
    }
}

static void sha256_end(sha256 *sha, uint8_t digest[32]) {
    uint64_t bits = sha->length * 8;
    uint8_t end[8];
    for (int i = 0; i < 8; i++) end[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(sha, "\x80", 1);
    while (sha->length % 64 != 56) sha256_add(sha, "", 1);
    sha256_add(sha, end, 8);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

static void sha256_of(const void *data, size_t len, uint8_t digest[32]) {
    sha256 sha;
    sha256_init(&sha);
    sha256_add(&sha, data, len);
    sha256_end(&sha, digest);
}

/* --- contents ---------------------------------------------------------------------------------------------------- */

enum { PAGE = 4096, NUMBER = 8 };

static uint8_t *content(const char *word, size_t size) {
    uint8_t page[PAGE], *data = malloc(size + 1);
    if (data == NULL) abort();
    for (uint32_t i = 0; i < PAGE / 32; i++) {
        uint8_t number[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        sha256 sha;
        sha256_init(&sha);
        sha256_add(&sha, word, strlen(word));
        sha256_add(&sha, number, sizeof number);
        sha256_end(&sha, page + 32 * i);
    }
    for (uint64_t number = 0; number * PAGE < size; number++) {
        size_t at = (size_t)number * PAGE;
        for (int i = 0; i < NUMBER; i++) page[PAGE - NUMBER + i] = (uint8_t)(number >> (56 - 8 * i));
        memcpy(data + at, page, size - at < PAGE ? size - at : PAGE);
    }
    return data;
}

/* --- commands and answers ---------------------------------------------------------------------------------------- */

enum { MOST_FIELDS = 24, NAME_ROOM = 64, ANSWER_ROOM = 16384 };

typedef struct {
    char *name, *text; /* text is NULL for a number or boolean */
    int64_t number;
} field;

typedef struct {
    field fields[MOST_FIELDS];
    int count;
    char *line;               /* names and texts lie in it */
    char answer[ANSWER_ROOM]; /* fields of the result, or why there is none */
    size_t len;
    phantom_session session; /* whose end an error 14 speaks of */
    phantom_stream stream;   /* whose reset an error 42 speaks of */
} command;

static const field *find(const command *c, const char *name) {
    for (int i = 0; i < c->count; i++) {
        if (strcmp(c->fields[i].name, name) == 0) return &c->fields[i];
    }
    return NULL;
}

static const char *text_of(const command *c, const char *name) {
    const field *found = find(c, name);
    return found == NULL || found->text == NULL ? NULL : found->text;
}

static const char *must(const command *c, const char *name) {
    const char *text = text_of(c, name);
    return text == NULL ? "" : text;
}

static int64_t number_of(const command *c, const char *name, int64_t otherwise) {
    const field *found = find(c, name);
    return found == NULL ? otherwise : found->number;
}

static char *utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
        *out++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *out++ = (char)(0xE0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    } else {
        *out++ = (char)(0xF0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 63));
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    }
    return out;
}

static uint32_t hex4(const char *at) {
    char digits[5] = {0};
    memcpy(digits, at, 4);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* A JSON text, decoded in place; *at stands behind its first quote, then behind its last. */
static char *parse_text(char **at) {
    char *start = *at, *in = *at, *out = *at;
    while (*in != '"' && *in != 0) {
        if (*in != '\\') {
            *out++ = *in++;
            continue;
        }
        in++;
        if (*in == 'u') {
            uint32_t code = hex4(in + 1);
            in += 5;
            if (code >= 0xD800 && code < 0xDC00 && in[0] == '\\' && in[1] == 'u') {
                code = 0x10000 + ((code - 0xD800) << 10) + (hex4(in + 2) - 0xDC00);
                in += 6;
            }
            out = utf8(out, code);
            continue;
        }
        *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : *in == 'r' ? '\r' : *in; /* \b and \f are in no case */
        in++;
    }
    *at = *in == 0 ? in : in + 1;
    *out = 0;
    return start;
}

/* A flat JSON object, as the runner writes it. */
static void parse(command *c) {
    char *at = strchr(c->line, '{');
    while (at != NULL && *at != 0 && *at != '}' && c->count < MOST_FIELDS) {
        field *f = &c->fields[c->count++];
        at = strchr(at, '"');
        if (at == NULL) abort();
        at++;
        f->name = parse_text(&at);
        at += strspn(at, ": ");
        if (*at == '"') {
            at++;
            f->text = parse_text(&at);
        } else if (*at == 't' || *at == 'f') {
            f->number = *at == 't';
        } else {
            f->number = strtoll(at, NULL, 10);
        }
        at += strcspn(at, ",}");
    }
}

static void add(command *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int wrote = vsnprintf(c->answer + c->len, ANSWER_ROOM - c->len, format, arguments);
    va_end(arguments);
    if (wrote < 0 || (size_t)wrote >= ANSWER_ROOM - c->len) abort();
    c->len += (size_t)wrote;
}

static void add_comma(command *c) {
    if (c->len > 0) add(c, ", ");
}

static void add_text(command *c, const char *name, const char *text) {
    add_comma(c);
    add(c, "\"%s\": \"%s\"", name, text);
}

static void add_number(command *c, const char *name, int64_t number) {
    add_comma(c);
    add(c, "\"%s\": %" PRId64, name, number);
}

static void add_bool(command *c, const char *name, int value) {
    add_comma(c);
    add(c, "\"%s\": %s", name, value ? "true" : "false");
}

static void add_hex(command *c, const char *name, const uint8_t *bytes, size_t len) {
    add_comma(c);
    add(c, "\"%s\": \"", name);
    for (size_t i = 0; i < len; i++) add(c, "%02x", bytes[i]);
    add(c, "\"");
}

static void add_message(command *c, const phantom_buffer *message) {
    uint8_t digest[32];
    sha256_of(message->data, message->len, digest);
    add_number(c, "size", (int64_t)message->len);
    add_hex(c, "sha256", digest, sizeof digest);
}

static phantom_status missing(command *c, const char *why) {
    c->len = 0;
    add(c, "%s", why);
    return MISSING;
}

static phantom_status fault(command *c, const char *why) {
    c->len = 0;
    add(c, "%s", why);
    return FAULT;
}

/* --- what the case made ------------------------------------------------------------------------------------------ */

typedef enum { KEY, LISTENER, SESSION, STREAM } kind;

typedef struct thing {
    struct thing *next;
    kind kind;
    uint64_t id;
    uint64_t session; /* of a stream */
    char name[NAME_ROOM];
} thing;

static thing *things;
static pthread_mutex_t things_lock = PTHREAD_MUTEX_INITIALIZER, output_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep_as(const char *name, kind kind, uint64_t id, uint64_t session) {
    thing *made = calloc(1, sizeof *made);
    if (made == NULL) abort();
    made->kind = kind;
    made->id = id;
    made->session = session;
    snprintf(made->name, NAME_ROOM, "%s", name);
    pthread_mutex_lock(&things_lock);
    made->next = things;
    things = made;
    pthread_mutex_unlock(&things_lock);
}

static void keep(const command *c, kind kind, uint64_t id) { keep_as(must(c, "name"), kind, id, 0); }

/* Nothing but zeros, which the library refuses, if there is no such thing. */
static thing look_up(const char *name, kind kind) {
    thing found = {NULL, kind, 0, 0, ""};
    pthread_mutex_lock(&things_lock);
    for (const thing *at = things; at != NULL && found.id == 0; at = at->next) {
        if (at->kind == kind && strcmp(at->name, name) == 0) found = *at;
    }
    pthread_mutex_unlock(&things_lock);
    return found;
}

static uint64_t get(const char *name, kind kind) { return look_up(name, kind).id; }

static void drop(const char *name, kind kind) {
    pthread_mutex_lock(&things_lock);
    for (thing **at = &things; *at != NULL; at = &(*at)->next) {
        if ((*at)->kind == kind && strcmp((*at)->name, name) == 0) {
            thing *gone = *at;
            *at = gone->next;
            free(gone);
            break;
        }
    }
    pthread_mutex_unlock(&things_lock);
}

static phantom_session session_of(command *c) {
    c->session = (phantom_session){get(must(c, "session"), SESSION)};
    return c->session;
}

static phantom_stream stream_named(command *c, const char *name) {
    thing found = look_up(name, STREAM);
    c->stream = (phantom_stream){found.id};
    c->session = (phantom_session){found.session};
    return c->stream;
}

static phantom_stream stream_of(command *c) { return stream_named(c, must(c, "stream")); }

static phantom_listener listener_of(const command *c) {
    return (phantom_listener){get(must(c, "listener"), LISTENER)};
}

static phantom_status do_reset(command *c) {
    (void)c;
    pthread_mutex_lock(&things_lock);
    thing *left = things;
    things = NULL;
    pthread_mutex_unlock(&things_lock);
    while (left != NULL) {
        thing *next = left->next;
        if (left->kind == KEY) phantom_signing_key_free((phantom_signing_key){left->id});
        if (left->kind == STREAM) phantom_stream_release((phantom_stream){left->id});
        if (left->kind == LISTENER) phantom_listener_release((phantom_listener){left->id});
        if (left->kind == SESSION) {
            phantom_session_disconnect((phantom_session){left->id}, 0, 1, NULL);
            phantom_session_release((phantom_session){left->id});
        }
        free(left);
        left = next;
    }
    return PHANTOM_OK;
}

/* --- configuration ----------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    phantom_config_field field;
    char type; /* d: a time, u: a number, c: a choice, t: a text */
} setting;

static const setting SETTINGS[] = {
    {"config.handshake_timeout_ms", PHANTOM_CONFIG_HANDSHAKE_TIMEOUT, 'd'},
    {"config.connect_timeout_ms", PHANTOM_CONFIG_CONNECT_TIMEOUT, 'd'},
    {"config.keepalive_interval_ms", PHANTOM_CONFIG_KEEPALIVE_INTERVAL, 'd'},
    {"config.max_sessions", PHANTOM_CONFIG_MAX_SESSIONS, 'u'},
    {"config.max_sessions_per_ip", PHANTOM_CONFIG_MAX_SESSIONS_PER_IP, 'u'},
    {"config.max_message", PHANTOM_CONFIG_MAX_MESSAGE, 'u'},
    {"config.bulk_chunk", PHANTOM_CONFIG_BULK_CHUNK, 'u'},
    {"config.suite", PHANTOM_CONFIG_SUITE, 'c'},
    {"config.cookie", PHANTOM_CONFIG_COOKIE, 'c'},
    {"config.padding", PHANTOM_CONFIG_PADDING, 'c'},
    {"config.offer_version", PHANTOM_CONFIG_OFFER_VERSION, 'u'},
    {"config.accept_versions", PHANTOM_CONFIG_ACCEPT_VERSIONS, 't'},
};

static uint32_t choice(const char *text) {
    if (strcmp(text, "aes-256-gcm") == 0) return PHANTOM_CIPHER_SUITE_AES_256_GCM;
    if (strcmp(text, "chacha20-poly1305") == 0) return PHANTOM_CIPHER_SUITE_CHACHA20_POLY1305;
    if (strcmp(text, "always") == 0) return PHANTOM_COOKIE_POLICY_ALWAYS;
    if (strcmp(text, "pade") == 0) return PHANTOM_PADDING_POLICY_PADE;
    return 0;
}

static phantom_status set(command *c, phantom_config config, const field *f) {
    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++) {
        const setting *s = &SETTINGS[i];
        if (strcmp(s->name, f->name) != 0) continue;
        if (s->type == 't') return phantom_config_set_text(config, s->field, f->text);
        if (s->type == 'd') return phantom_config_set_duration_ms(config, s->field, f->number);
        return phantom_config_set_u32(config, s->field, s->type == 'u' ? (uint32_t)f->number : choice(f->text));
    }
    return fault(c, "the driver does not know this field of the configuration");
}

static phantom_status configured(command *c, phantom_config *config) {
    phantom_status status = phantom_config_preset(PHANTOM_CONFIG_PRESET_UNSPECIFIED, config);
    for (int i = 0; i < c->count && status == PHANTOM_OK; i++) {
        if (strncmp(c->fields[i].name, "config.", 7) == 0) status = set(c, *config, &c->fields[i]);
    }
    return status;
}

/* --- keys -------------------------------------------------------------------------------------------------------- */

static size_t unhex(const char *hex, uint8_t *bytes, size_t room) {
    size_t len = strlen(hex) / 2;
    if (len > room) abort();
    for (size_t i = 0; i < len; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return len;
}

static phantom_status add_key(command *c, const uint8_t *key, size_t len) {
    char fingerprint[PHANTOM_FINGERPRINT_CHARS + 1];
    phantom_status status = phantom_verifying_key_check(key, len, fingerprint, sizeof fingerprint, NULL);
    if (status == PHANTOM_OK) add_text(c, "fingerprint", fingerprint);
    return status;
}

static phantom_status do_key(command *c) {
    phantom_signing_key key;
    const char *seed_hex = text_of(c, "seed_hex");
    uint8_t seed[128], verifying_key[PHANTOM_VERIFYING_KEY_BYTES];
    size_t len;
    phantom_status status =
        seed_hex == NULL ? phantom_signing_key_generate(&key)
                         : phantom_signing_key_from_seed(seed, unhex(seed_hex, seed, sizeof seed), &key);
    if (status != PHANTOM_OK) return status;
    keep(c, KEY, key.id);
    status = phantom_signing_key_verifying_key(key, verifying_key, sizeof verifying_key, &len);
    if (status != PHANTOM_OK) return status;
    add_hex(c, "verifying_key", verifying_key, len);
    return add_key(c, verifying_key, len);
}

static phantom_status do_check_key(command *c) {
    uint8_t key[4096];
    return add_key(c, key, unhex(must(c, "key_hex"), key, sizeof key));
}

/* --- listeners --------------------------------------------------------------------------------------------------- */

static phantom_status add_listener(command *c, phantom_listener listener) {
    char url[512];
    uint8_t key[PHANTOM_VERIFYING_KEY_BYTES];
    size_t len;
    uint32_t urls = 0;
    while (phantom_listener_url(listener, urls, url, sizeof url, NULL) == PHANTOM_OK) urls++;
    add_number(c, "urls", urls);
    phantom_status status = phantom_listener_url(listener, 0, url, sizeof url, NULL);
    if (status != PHANTOM_OK) return status;
    add_text(c, "url", url);
    char *pin = strstr(url, "://"), *address = strchr(url, '@'), *port = strrchr(url, ':');
    if (pin == NULL || address == NULL || port == NULL) return fault(c, "a URL without its parts");
    *pin = *address = 0;
    add_text(c, "scheme", url);
    add_text(c, "fingerprint", pin + 3);
    add_text(c, "address", address + 1);
    *port = 0;
    add_text(c, "host", address + 1);
    add_number(c, "port", strtol(port + 1, NULL, 10));
    status = phantom_listener_verifying_key(listener, key, sizeof key, &len);
    if (status == PHANTOM_OK) add_hex(c, "verifying_key", key, len);
    return status;
}

static phantom_status do_listen(command *c) {
    phantom_bind_options options;
    phantom_listener listener;
    phantom_bind_options_init(&options);
    const char *address = text_of(c, "address"), *key = text_of(c, "key");
    options.addresses = address == NULL ? "tcp://127.0.0.1:0" : address;
    if (key != NULL) options.key.id = get(key, KEY);
    options.reuse_port = (int32_t)number_of(c, "reuse_port", 0);
    options.authorized_clients = text_of(c, "authorized");
    options.authorized_clients_file = text_of(c, "authorized_file");
    if (strcmp(must(c, "clients"), "optional") == 0) {
        options.client_authentication = PHANTOM_CLIENT_AUTHENTICATION_OPTIONAL;
    } else if (strcmp(must(c, "clients"), "required") == 0) {
        options.client_authentication = PHANTOM_CLIENT_AUTHENTICATION_REQUIRED;
    }
    phantom_status status = configured(c, &options.config);
    if (status == PHANTOM_OK) status = phantom_listener_bind_ex(&options, 10000, &listener);
    if (status == PHANTOM_OK) {
        keep(c, LISTENER, listener.id);
        status = add_listener(c, listener);
    }
    if (options.config.id != 0) phantom_config_free(options.config);
    return status;
}

static phantom_status add_session(command *c, phantom_session session) {
    char id[2 * PHANTOM_SESSION_ID_BYTES + 1], peer[256];
    keep(c, SESSION, session.id);
    c->session = session;
    phantom_status status = phantom_session_id(session, id, sizeof id, NULL);
    if (status == PHANTOM_OK) status = phantom_session_peer_addr(session, peer, sizeof peer, NULL);
    if (status != PHANTOM_OK) return status;
    add_text(c, "id", id);
    add_text(c, "peer_addr", peer);
    return PHANTOM_OK;
}

static phantom_status do_accept(command *c) {
    phantom_outcome outcome;
    phantom_session session;
    phantom_status status = phantom_listener_accept(listener_of(c), number_of(c, "timeout_ms", 0), &outcome);
    if (status != PHANTOM_OK) return status;
    uint8_t identity[PHANTOM_VERIFYING_KEY_BYTES];
    size_t len = 0;
    status = phantom_outcome_session(outcome, &session);
    if (status == PHANTOM_OK) status = phantom_outcome_client_identity(outcome, identity, sizeof identity, &len);
    phantom_outcome_release(outcome);
    if (status != PHANTOM_OK) return status;
    add_hex(c, "client_identity", identity, len);
    return add_session(c, session);
}

static phantom_status do_answer(command *c) {
    phantom_buffer message;
    int64_t limit = number_of(c, "timeout_ms", 0);
    phantom_status status = do_accept(c);
    c->len = 0;
    if (status == PHANTOM_OK) status = phantom_session_recv(c->session, limit, &message);
    if (status != PHANTOM_OK) return status;
    status = phantom_session_send(c->session, message.data, message.len, limit);
    if (status == PHANTOM_OK) status = phantom_session_flush_queue(c->session, limit, NULL);
    if (status == PHANTOM_OK) add_message(c, &message);
    phantom_buffer_free(&message);
    return status;
}

static phantom_status do_shutdown(command *c) { return phantom_listener_shutdown(listener_of(c)); }

static phantom_status do_shutting_down(command *c) {
    int32_t value = 0;
    phantom_status status = phantom_listener_is_shutting_down(listener_of(c), &value);
    add_bool(c, "value", value);
    return status;
}

/* --- sessions ---------------------------------------------------------------------------------------------------- */

static phantom_status do_connect(command *c) {
    phantom_connect_options options;
    phantom_session session;
    const char *form = text_of(c, "pin_form");
    if (form != NULL && strcmp(form, "text") != 0) return missing(c, "a pin is text");
    phantom_connect_options_init(&options);
    options.target = must(c, "target");
    options.pin = text_of(c, "pin");
    if (text_of(c, "identity") != NULL) options.identity.id = get(must(c, "identity"), KEY);
    phantom_status status = configured(c, &options.config);
    if (status == PHANTOM_OK) status = phantom_connect_ex(&options, number_of(c, "timeout_ms", 10000), &session);
    if (status == PHANTOM_OK) status = add_session(c, session);
    if (options.config.id != 0) phantom_config_free(options.config);
    return status;
}

static phantom_status do_echo(command *c) {
    phantom_buffer message;
    int64_t limit = number_of(c, "timeout_ms", 0);
    const char *text = must(c, "text");
    phantom_status status = do_connect(c);
    if (status != PHANTOM_OK) return status;
    c->len = 0;
    status = phantom_session_send(c->session, text, strlen(text), limit);
    if (status == PHANTOM_OK) status = phantom_session_recv(c->session, limit, &message);
    if (status != PHANTOM_OK) return status;
    add_message(c, &message);
    phantom_buffer_free(&message);
    return phantom_session_disconnect(c->session, 0, limit, NULL);
}

static phantom_status do_await_ready(command *c) {
    return phantom_session_await_ready(session_of(c), number_of(c, "timeout_ms", 0));
}

static phantom_status send_one(command *c, phantom_session session, const char *word) {
    size_t size = (size_t)number_of(c, "size", 0);
    uint8_t *data = content(word, size);
    phantom_status status = phantom_session_send(session, data, size, number_of(c, "timeout_ms", 0));
    free(data);
    return status;
}

static phantom_status do_send(command *c) { return send_one(c, session_of(c), must(c, "word")); }

static phantom_status do_send_many(command *c) {
    phantom_session session = session_of(c);
    phantom_status status = PHANTOM_OK;
    for (int64_t i = 0; i < number_of(c, "count", 0) && status == PHANTOM_OK; i++) {
        char word[128];
        snprintf(word, sizeof word, "%s/%" PRId64, must(c, "word"), i);
        status = send_one(c, session, word);
    }
    return status;
}

static phantom_status do_recv(command *c) {
    phantom_buffer message;
    phantom_status status = phantom_session_recv(session_of(c), number_of(c, "timeout_ms", 0), &message);
    if (status != PHANTOM_OK) return status;
    add_message(c, &message);
    phantom_buffer_free(&message);
    return PHANTOM_OK;
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static phantom_status do_recv_many(command *c) {
    phantom_session session = session_of(c);
    int64_t limit = number_of(c, "timeout_ms", 0), poll = number_of(c, "poll_ms", limit), end = now_ms() + limit;
    int64_t count = 0, wanted = number_of(c, "count", 0);
    uint8_t digest[32];
    sha256 all;
    sha256_init(&all);
    while (count < wanted) {
        phantom_buffer message;
        phantom_status status = phantom_session_recv(session, poll, &message);
        if (status == PHANTOM_ERROR_TIMEOUT && now_ms() < end) continue;
        if (status != PHANTOM_OK) return status;
        sha256_of(message.data, message.len, digest);
        sha256_add(&all, digest, sizeof digest);
        phantom_buffer_free(&message);
        count++;
    }
    sha256_end(&all, digest);
    add_number(c, "count", count);
    add_hex(c, "sha256", digest, sizeof digest);
    return PHANTOM_OK;
}

static phantom_status do_flush(command *c) {
    uint64_t acknowledged = 0;
    phantom_status status = phantom_session_flush_queue(session_of(c), number_of(c, "timeout_ms", 0), &acknowledged);
    add_number(c, "acknowledged", (int64_t)acknowledged);
    return status;
}

static phantom_status do_info(command *c) {
    phantom_session session = session_of(c);
    char id[2 * PHANTOM_SESSION_ID_BYTES + 1], peer[256];
    uint8_t key[PHANTOM_VERIFYING_KEY_BYTES];
    size_t key_len = 0;
    uint64_t queued = 0;
    phantom_negotiated negotiated;
    phantom_negotiated_init(&negotiated);
    phantom_status status = phantom_session_id(session, id, sizeof id, NULL);
    if (status == PHANTOM_OK) status = phantom_session_peer_addr(session, peer, sizeof peer, NULL);
    if (status == PHANTOM_OK) status = phantom_session_peer_identity(session, key, sizeof key, &key_len);
    if (status == PHANTOM_OK) status = phantom_session_queued_count(session, &queued);
    if (status == PHANTOM_OK) status = phantom_session_negotiated(session, &negotiated);
    if (status != PHANTOM_OK) return status;
    add_text(c, "id", id);
    add_text(c, "peer_addr", peer);
    add_hex(c, "peer_identity", key, key_len);
    add_number(c, "queued", (int64_t)queued);
    add_number(c, "version", negotiated.version);
    add_number(c, "suite", negotiated.suite);
    add_number(c, "receive_suite", negotiated.receive_suite);
    add_text(c, "leg", negotiated.leg == PHANTOM_LEG_TCP ? "tcp" : "?");
    add_number(c, "epoch", negotiated.epoch);
    return PHANTOM_OK;
}

static phantom_status do_state(command *c) {
    phantom_session session = session_of(c);
    phantom_connection_state state = 0;
    phantom_status code = PHANTOM_OK, status = phantom_session_state(session, &state);
    phantom_buffer message;
    if (status == PHANTOM_OK) status = phantom_session_last_error(session, &code, &message, NULL, NULL);
    if (status != PHANTOM_OK) return status;
    phantom_buffer_free(&message);
    add_number(c, "state", state);
    add_number(c, "last_error", code);
    return PHANTOM_OK;
}

static phantom_status do_ready(command *c) {
    phantom_session session = session_of(c);
    int32_t data = 0, pqc = 0;
    phantom_status status = phantom_session_is_data_ready(session, &data);
    if (status == PHANTOM_OK) status = phantom_session_is_pqc_ready(session, &pqc);
    add_bool(c, "data_ready", data);
    add_bool(c, "pqc_ready", pqc);
    return status;
}

static phantom_status do_metrics(command *c) {
    phantom_metrics m;
    phantom_metrics_init(&m);
    uint64_t session = get(must(c, "of"), SESSION), listener = get(must(c, "of"), LISTENER);
    phantom_status status = session != 0 ? phantom_session_metrics((phantom_session){session}, &m)
                                         : phantom_listener_metrics((phantom_listener){listener}, &m);
#define COUNT(name) add_number(c, #name, (int64_t)m.name)
    COUNT(packets_sent);
    COUNT(packets_recv);
    COUNT(bytes_sent);
    COUNT(bytes_recv);
    COUNT(messages_sent);
    COUNT(messages_recv);
    COUNT(retransmissions);
    COUNT(encrypt_count);
    COUNT(decrypt_count);
    COUNT(rtt_us_path_0);
    COUNT(active_sessions);
    COUNT(handshakes_success);
    COUNT(handshakes_failure);
    COUNT(handshake_latency_ns_sum);
    COUNT(handshake_latency_count);
    COUNT(replay_rejected_total);
    COUNT(aead_failure_total);
    COUNT(unencrypted_dropped_total);
    COUNT(uptime_ms);
    COUNT(active_streams);
    COUNT(rekeys_local_total);
    COUNT(rekeys_peer_total);
#undef COUNT
    return status;
}

static phantom_status do_disconnect(command *c) {
    int32_t all = 0;
    uint32_t code = (uint32_t)number_of(c, "code", 0);
    phantom_status status = phantom_session_disconnect(session_of(c), code, number_of(c, "timeout_ms", 0), &all);
    add_bool(c, "all_acknowledged", all);
    return status;
}

static phantom_status do_stale(command *c) {
    phantom_connection_state state;
    phantom_session session = {session_of(c).id + 4711};
    return phantom_session_state(session, &state);
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

static phantom_status open_stream(command *c, const char *name) {
    phantom_session session = session_of(c);
    phantom_stream stream;
    uint32_t id = 0, priority = (uint32_t)number_of(c, "priority", 0);
    int64_t limit = number_of(c, "wait", 1) ? number_of(c, "timeout_ms", 0) : 0;
    phantom_status status = phantom_session_open_stream(session, priority, limit, &stream);
    if (status != PHANTOM_OK) return status;
    keep_as(name, STREAM, stream.id, session.id);
    status = phantom_stream_id(stream, &id);
    c->len = 0;
    add_number(c, "stream_id", id);
    return status;
}

static phantom_status accept_stream(command *c, const char *name) {
    phantom_session session = session_of(c);
    phantom_stream stream;
    uint32_t id = 0;
    phantom_status status = phantom_session_accept_stream(session, number_of(c, "timeout_ms", 0), &stream);
    if (status != PHANTOM_OK) return status;
    keep_as(name, STREAM, stream.id, session.id);
    status = phantom_stream_id(stream, &id);
    c->len = 0;
    add_number(c, "stream_id", id);
    return status;
}

static phantom_status several(command *c, phantom_status (*one)(command *, const char *)) {
    int64_t count = number_of(c, "count", 0);
    for (int64_t i = 0; i < count; i++) {
        char name[NAME_ROOM];
        snprintf(name, sizeof name, "%s/%" PRId64, must(c, "name"), i);
        phantom_status status = one(c, name);
        if (status != PHANTOM_OK) return status;
    }
    c->len = 0;
    add_number(c, "count", count);
    return PHANTOM_OK;
}

static phantom_status do_open_stream(command *c) { return open_stream(c, must(c, "name")); }
static phantom_status do_accept_stream(command *c) { return accept_stream(c, must(c, "name")); }
static phantom_status do_open_streams(command *c) { return several(c, open_stream); }
static phantom_status do_accept_streams(command *c) { return several(c, accept_stream); }

static phantom_status stream_send(command *c, phantom_stream stream, const char *word) {
    size_t size = (size_t)number_of(c, "size", 0);
    int64_t limit = number_of(c, "timeout_ms", 0);
    uint8_t *data = content(word, size);
    phantom_status status = number_of(c, "unreliable", 0) ? phantom_stream_send_unreliable(stream, data, size, limit)
                                                          : phantom_stream_send_reliable(stream, data, size, limit);
    free(data);
    return status;
}

static phantom_status do_stream_send(command *c) { return stream_send(c, stream_of(c), must(c, "word")); }

static phantom_status do_stream_recv(command *c) {
    phantom_buffer piece;
    int32_t end = 0;
    phantom_status status = phantom_stream_recv(stream_of(c), number_of(c, "timeout_ms", 0), &piece, &end);
    if (status != PHANTOM_OK) return status;
    add_message(c, &piece);
    add_bool(c, "end", end);
    phantom_buffer_free(&piece);
    return PHANTOM_OK;
}

/* Reads to the end, or `most` bytes if that is not negative. */
static phantom_status read_on(command *c, phantom_stream stream, int64_t most, sha256 *sha, int32_t *end) {
    while (!*end && most != 0) {
        phantom_buffer piece;
        phantom_status status = phantom_stream_recv(stream, number_of(c, "timeout_ms", 0), &piece, end);
        if (status != PHANTOM_OK) return status;
        sha256_add(sha, piece.data, piece.len);
        if (most > 0) most = (int64_t)piece.len < most ? most - (int64_t)piece.len : 0;
        phantom_buffer_free(&piece);
    }
    return PHANTOM_OK;
}

static phantom_status do_stream_read(command *c) {
    sha256 sha;
    uint8_t digest[32];
    int32_t end = 0;
    sha256_init(&sha);
    phantom_status status = read_on(c, stream_of(c), number_of(c, "size", -1), &sha, &end);
    if (status != PHANTOM_OK) return status;
    add_number(c, "size", (int64_t)sha.length);
    sha256_end(&sha, digest);
    add_hex(c, "sha256", digest, sizeof digest);
    add_bool(c, "end", end);
    return PHANTOM_OK;
}

static phantom_status do_stream_info(command *c) {
    phantom_stream stream = stream_of(c);
    uint32_t id = 0, priority = 0, most = 0;
    phantom_status status = phantom_stream_id(stream, &id);
    if (status == PHANTOM_OK) status = phantom_stream_priority(stream, &priority);
    if (status == PHANTOM_OK) status = phantom_stream_max_unreliable_size(stream, &most);
    add_number(c, "stream_id", id);
    add_number(c, "priority", priority);
    add_number(c, "max_unreliable_size", most);
    return status;
}

static phantom_status do_stream_priority(command *c) {
    return phantom_stream_set_priority(stream_of(c), (uint32_t)number_of(c, "priority", 0));
}

static phantom_status do_stream_finish(command *c) { return phantom_stream_finish(stream_of(c)); }

static phantom_status do_stream_reset(command *c) {
    return phantom_stream_reset(stream_of(c), (uint32_t)number_of(c, "code", 0));
}

static phantom_status do_stream_stop(command *c) {
    return phantom_stream_stop(stream_of(c), (uint32_t)number_of(c, "code", 0));
}

static phantom_status do_stream_release(command *c) {
    phantom_status status = phantom_stream_release(stream_of(c));
    drop(must(c, "stream"), STREAM);
    return status;
}

static phantom_status do_fill_streams(command *c) {
    phantom_status status = PHANTOM_OK;
    for (int64_t i = 0; i < number_of(c, "count", 0) && status == PHANTOM_OK; i++) {
        char name[NAME_ROOM], word[128];
        snprintf(name, sizeof name, "%s/%" PRId64, must(c, "streams"), i);
        snprintf(word, sizeof word, "%s/%" PRId64, must(c, "word"), i);
        phantom_stream stream = stream_named(c, name);
        status = stream_send(c, stream, word);
        if (status == PHANTOM_OK) status = phantom_stream_finish(stream);
    }
    return status;
}

static phantom_status do_drain_streams(command *c) {
    int64_t count = number_of(c, "count", 0);
    uint8_t digest[32];
    sha256 all;
    sha256_init(&all);
    for (int64_t i = 0; i < count; i++) {
        char name[NAME_ROOM];
        int32_t end = 0;
        sha256 sha;
        snprintf(name, sizeof name, "%s/%" PRId64, must(c, "streams"), i);
        sha256_init(&sha);
        phantom_status status = read_on(c, stream_named(c, name), -1, &sha, &end);
        if (status != PHANTOM_OK) return status;
        sha256_end(&sha, digest);
        sha256_add(&all, digest, sizeof digest);
    }
    sha256_end(&all, digest);
    add_number(c, "count", count);
    add_hex(c, "sha256", digest, sizeof digest);
    return PHANTOM_OK;
}

/* --- keys and events of a session -------------------------------------------------------------------------------- */

static phantom_status do_rekey(command *c) {
    uint32_t epoch = 0;
    phantom_status status = phantom_session_rekey(session_of(c), number_of(c, "timeout_ms", 0), &epoch);
    add_number(c, "epoch", epoch);
    return status;
}

static phantom_status do_export(command *c) {
    static uint8_t material[ANSWER_ROOM / 4];
    uint32_t length = (uint32_t)number_of(c, "length", 0);
    size_t len = 0;
    phantom_status status = phantom_session_export_keying_material(
        session_of(c), must(c, "label"), length, material, sizeof material, &len);
    if (status == PHANTOM_OK) add_hex(c, "material", material, len);
    return status;
}

static phantom_status do_watch(command *c) {
    phantom_connection_state state;
    return phantom_session_state(session_of(c), &state); /* events are kept from the beginning */
}

static phantom_status do_event(command *c) {
    phantom_session session = session_of(c);
    phantom_session_event event;
    int rekeyed = strcmp(must(c, "kind"), "rekeyed") == 0;
    for (;;) {
        phantom_session_event_init(&event);
        phantom_status status = phantom_session_next_event_ex(session, number_of(c, "timeout_ms", 0), &event);
        if (status != PHANTOM_OK) return status;
        int wanted = rekeyed == (event.kind == PHANTOM_SESSION_EVENT_KIND_REKEYED);
        if (wanted) add_text(c, "reason", event.reason.len > 0 ? (const char *)event.reason.data : "");
        phantom_buffer_free(&event.reason);
        if (wanted) break;
    }
    if (rekeyed) {
        add_number(c, "epoch", event.epoch);
        add_bool(c, "by_peer", event.by_peer);
    } else {
        add_number(c, "state", event.state);
    }
    return PHANTOM_OK;
}

/* --- the driver -------------------------------------------------------------------------------------------------- */

static phantom_status do_hello(command *c) {
    add_text(c, "version", phantom_version_string());
    return phantom_init();
}

static phantom_status do_cancel(command *c) { return missing(c, "a thread that waits ends by its limit"); }
static phantom_status do_drain(command *c) { return missing(c, "no such call"); }
static phantom_status do_contract(command *c) { return missing(c, "no second process whose version could differ"); }
static phantom_status do_token(command *c) { return missing(c, "no token"); }

static const struct {
    const char *name;
    phantom_status (*run)(command *);
} COMMANDS[] = {
    {"hello", do_hello},
    {"reset", do_reset},
    {"cancel", do_cancel},
    {"key", do_key},
    {"check_key", do_check_key},
    {"listen", do_listen},
    {"accept", do_accept},
    {"answer", do_answer},
    {"shutdown", do_shutdown},
    {"shutting_down", do_shutting_down},
    {"drain", do_drain},
    {"connect", do_connect},
    {"echo", do_echo},
    {"await_ready", do_await_ready},
    {"send", do_send},
    {"send_many", do_send_many},
    {"recv", do_recv},
    {"recv_many", do_recv_many},
    {"flush", do_flush},
    {"info", do_info},
    {"state", do_state},
    {"ready", do_ready},
    {"metrics", do_metrics},
    {"disconnect", do_disconnect},
    {"stale", do_stale},
    {"open_stream", do_open_stream},
    {"open_streams", do_open_streams},
    {"accept_stream", do_accept_stream},
    {"accept_streams", do_accept_streams},
    {"stream_send", do_stream_send},
    {"stream_recv", do_stream_recv},
    {"stream_read", do_stream_read},
    {"stream_info", do_stream_info},
    {"stream_priority", do_stream_priority},
    {"stream_finish", do_stream_finish},
    {"stream_reset", do_stream_reset},
    {"stream_stop", do_stream_stop},
    {"stream_release", do_stream_release},
    {"fill_streams", do_fill_streams},
    {"drain_streams", do_drain_streams},
    {"rekey", do_rekey},
    {"export", do_export},
    {"watch", do_watch},
    {"event", do_event},
    {"contract", do_contract},
    {"token", do_token},
};

static void print_text(const char *text) {
    putchar('"');
    for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
        if (*at == '"' || *at == '\\') {
            printf("\\%c", *at);
        } else if (*at < 32) {
            printf("\\u%04x", *at);
        } else {
            putchar(*at);
        }
    }
    putchar('"');
}

static void answer(command *c, phantom_status status) {
    int32_t peer_code = -1, reset_code = -1;
    const char *why = phantom_last_error_message();
    char text[1024];
    snprintf(text, sizeof text, "%s", why); /* the next call may fail, too */
    if (status == PHANTOM_ERROR_CONNECTION_CLOSED || status == PHANTOM_ERROR_SESSION_CLOSING) {
        phantom_buffer message = {NULL, 0};
        phantom_session_last_error(c->session, NULL, &message, &peer_code, NULL);
        phantom_buffer_free(&message);
    }
    if (status == PHANTOM_ERROR_STREAM_RESET) phantom_stream_reset_code(c->stream, &reset_code);
    pthread_mutex_lock(&output_lock);
    printf("{\"id\": %" PRId64 ", ", number_of(c, "id", 0));
    if (status == PHANTOM_OK) {
        printf("\"result\": {%s}}\n", c->answer);
    } else if (status == MISSING) {
        printf("\"missing\": \"%s\"}\n", c->answer);
    } else {
        int code = status == FAULT ? 0 : (int)status;
        printf("\"error\": {\"code\": %d, \"peer_code\": %d, \"reset_code\": %d, ", code, (int)peer_code, (int)reset_code);
        printf("\"message\": ");
        print_text(status == FAULT ? c->answer : text);
        printf("}}\n");
    }
    fflush(stdout);
    pthread_mutex_unlock(&output_lock);
}

static void *run(void *argument) {
    command *c = argument;
    const char *wanted = must(c, "do");
    phantom_status status = fault(c, "no such command");
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        if (strcmp(COMMANDS[i].name, wanted) == 0) {
            c->len = 0;
            c->answer[0] = 0;
            status = COMMANDS[i].run(c);
        }
    }
    answer(c, status);
    free(c->line);
    free(c);
    return NULL;
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        pthread_t thread;
        command *c = calloc(1, sizeof *c);
        if (c == NULL) abort();
        c->line = line;
        line = NULL;
        room = 0;
        parse(c);
        if (pthread_create(&thread, NULL, run, c) != 0) abort();
        pthread_detach(thread);
    }
    free(line);
    phantom_fini(2000);
    fflush(stdout);
    _exit(0); /* threads may still say how their commands ended, to nobody */
}
