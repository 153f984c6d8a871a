/* The anchor: what a C program of the same kind reaches on this machine. It speaks the framing of Phantom's packets
 * (45-byte header as AAD, AES-256-GCM, messages of stream 1 packed into segments of at most 64 KiB) and makes the copies
 * that any library with such an API makes: a message in, into the segment that is kept, and a message out. It has no
 * acknowledgements, windows or streams, so it is a floor that an honest session cannot reach.
 *
 *   native server FD SIZE MODE         FD: an inherited listening socket
 *   native client PORT SIZE MODE SECONDS
 * MODE: stream (batches of 256 KiB), single (one frame per write), echo (ping-pong)
 * Prints: bytes messages seconds cpu-seconds faults [p50 p99 in microseconds] */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SEGMENT = 65540,    /* a message of 64 KiB and its length */
    KEPT = 32,          /* segments kept, as if for a retransmission */
    BATCH = 262144,
    WINDOW = 1 << 20,
    HEADER = 45,
    LENGTHS = 4 + HEADER + 4, /* length prefix, header, payload length */
    TAG = 16,
    OFFSET = 4,         /* stream_offset in front of the data */
    OUTPUTS = 16        /* messages alive at the same time */
};

static int fd;
static EVP_CIPHER_CTX *sealing, *opening;
static uint8_t *segments[KEPT], *batch, *window, *outputs[OUTPUTS];
static long batch_size, segment_size, batch_limit, read_from, read_to;
static unsigned sequence, sealed;
static long needed, had, messages;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

static double cpu(long *faults) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    *faults = usage.ru_minflt;
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void put32(uint8_t *at, uint32_t value) {
    value = htonl(value);
    memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

static void nonce_of(uint8_t nonce[12], const uint8_t *header) {
    put32(nonce, 7);
    nonce[4] = 0;
    memcpy(nonce + 5, header + 33, 6); /* stream id and sequence */
    nonce[11] = 0;
}

static void push(void) {
    for (long at = 0; at < batch_size;) {
        long n = write(fd, batch + at, batch_size - at);
        if (n <= 0) fail("write");
        at += n;
    }
    batch_size = 0;
}

static void seal(void) {
    uint8_t *segment = segments[sealed++ % KEPT], *frame = batch + batch_size, *header = frame + 4, nonce[12];
    int n;
    long plain = OFFSET + segment_size, payload = plain + TAG;
    put32(segment, sequence);
    put32(frame, HEADER + 4 + payload + 4);
    memset(header, 0, HEADER);
    header[0] = 2;
    memset(header + 1, 's', 32);
    header[34] = 1;
    put32(header + 35, sequence++);
    header[40] = 0x21;
    put32(header + HEADER, payload);
    nonce_of(nonce, header);
    EVP_EncryptInit_ex(sealing, NULL, NULL, NULL, nonce);
    EVP_EncryptUpdate(sealing, NULL, &n, header, HEADER);
    EVP_EncryptUpdate(sealing, frame + LENGTHS, &n, segment, (int)plain);
    EVP_EncryptFinal_ex(sealing, frame + LENGTHS + plain, &n);
    EVP_CIPHER_CTX_ctrl(sealing, EVP_CTRL_GCM_GET_TAG, TAG, frame + LENGTHS + plain);
    put32(frame + LENGTHS + payload, 0); /* no extensions */
    batch_size += LENGTHS + payload + 4;
    segment_size = 0;
    if (batch_size > batch_limit) push();
}

/* The copy in: a message of SIZE bytes into the open segment, cut only if it is larger than one. */
static void put(const uint8_t *message, long size) {
    if (segment_size && segment_size + 4 + size > SEGMENT) seal();
    put32(segments[sealed % KEPT] + OFFSET + segment_size, (uint32_t)size);
    segment_size += 4;
    while (size) {
        long n = SEGMENT - segment_size;
        if (n > size) n = size;
        memcpy(segments[sealed % KEPT] + OFFSET + segment_size, message, n);
        segment_size += n;
        message += n;
        size -= n;
        if (size) seal();
    }
    if (batch_limit == 0 && segment_size) seal();
}

/* The copy out. */
static void deliver(const uint8_t *data, long size) {
    while (size) {
        if (!needed) {
            needed = get32(data);
            had = 0;
            data += 4;
            size -= 4;
        }
        long n = needed - had < size ? needed - had : size;
        memcpy(outputs[messages % OUTPUTS] + had, data, n);
        had += n;
        data += n;
        size -= n;
        if (had == needed) {
            messages++;
            needed = 0;
        }
    }
}

static int pull(void) {
    long got = read(fd, window + read_to, WINDOW - read_to);
    int n;
    if (got <= 0) return 0;
    read_to += got;
    while (read_to - read_from >= LENGTHS + 4) {
        uint8_t *frame = window + read_from, *header = frame + 4, nonce[12];
        long length = get32(frame), plain = length - HEADER - 8 - TAG;
        if (read_to - read_from < 4 + length) break;
        nonce_of(nonce, header);
        EVP_DecryptInit_ex(opening, NULL, NULL, NULL, nonce);
        EVP_DecryptUpdate(opening, NULL, &n, header, HEADER);
        EVP_DecryptUpdate(opening, frame + LENGTHS, &n, frame + LENGTHS, (int)plain);
        EVP_CIPHER_CTX_ctrl(opening, EVP_CTRL_GCM_SET_TAG, TAG, frame + LENGTHS + plain);
        if (EVP_DecryptFinal_ex(opening, frame + LENGTHS + plain, &n) <= 0) {
            fputs("a packet does not open\n", stderr);
            exit(2);
        }
        deliver(frame + LENGTHS + OFFSET, plain - OFFSET);
        read_from += 4 + length;
    }
    if (read_from == read_to)
        read_from = read_to = 0;
    else if (WINDOW - read_to < 2 * SEGMENT) {
        memmove(window, window + read_from, read_to - read_from);
        read_to -= read_from;
        read_from = 0;
    }
    return 1;
}

static int ascending(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static void prepare(long size, int batched) {
    uint8_t key[32];
    memset(key, 'k', sizeof key);
    sealing = EVP_CIPHER_CTX_new();
    opening = EVP_CIPHER_CTX_new();
    if (!EVP_EncryptInit_ex(sealing, EVP_aes_256_gcm(), NULL, key, NULL)) fail("AES-256-GCM");
    EVP_DecryptInit_ex(opening, EVP_aes_256_gcm(), NULL, key, NULL);
    for (int i = 0; i < KEPT; i++) segments[i] = calloc(1, SEGMENT + 8);
    for (int i = 0; i < OUTPUTS; i++) outputs[i] = calloc(1, size + 8);
    batch = calloc(1, BATCH + 2 * SEGMENT);
    window = calloc(1, WINDOW);
    batch_limit = batched ? BATCH - SEGMENT - LENGTHS - TAG - 8 : 0;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void serve(int listening, long size, int echo, int batched) {
    long faults_before, faults, answered = 0;
    fd = accept(listening, NULL, NULL);
    if (fd < 0) fail("accept");
    prepare(size, batched);
    uint8_t *message = calloc(1, size);
    if (!pull()) fail("nothing arrived");
    double begun = seconds(), used = cpu(&faults_before);
    do {
        for (; echo && answered < messages; answered++) {
            put(message, size);
            seal();
            push();
        }
    } while (pull());
    used = cpu(&faults) - used;
    printf("%ld %ld %f %f %ld\n", messages * size, messages, seconds() - begun, used, faults - faults_before);
}

static void send_for(int port, long size, int echo, int batched, double duration) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    long faults_before, faults, count = 0, ring = (1 << 20) / size, limit = 1 << 20;
    double *latency = malloc(limit * sizeof *latency);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    prepare(size, batched);
    ring = ring < 1 ? 1 : ring > 4096 ? 4096 : ring;
    uint8_t *source = malloc(ring * size);
    memset(source, 'x', ring * size);
    double begun = seconds(), used = cpu(&faults_before);
    while (seconds() - begun < duration && count < limit * 64) {
        if (echo) {
            double sent = seconds();
            long before = messages;
            put(source, size);
            seal();
            push();
            while (messages == before)
                if (!pull()) fail("the server is gone");
            latency[count++ % limit] = (seconds() - sent) * 1e6;
        } else {
            for (long i = 0; i < ring; i++) put(source + i * size, size);
            count += ring;
        }
    }
    if (segment_size) seal();
    push();
    used = cpu(&faults) - used;
    printf("%ld %ld %f %f %ld", count * size, count, seconds() - begun, used, faults - faults_before);
    if (echo) {
        long n = count < limit ? count : limit;
        qsort(latency, n, sizeof *latency, ascending);
        printf(" %f %f", latency[n / 2], latency[n * 99 / 100]);
    }
    puts("");
}

int main(int argc, char **argv) {
    if (argc < 5) return 64;
    int echo = !strcmp(argv[4], "echo"), batched = strcmp(argv[4], "single") != 0;
    if (argv[1][0] == 's')
        serve(atoi(argv[2]), atol(argv[3]), echo, batched);
    else
        send_for(atoi(argv[2]), atol(argv[3]), echo, batched, atof(argv[5]));
    return 0;
}
