/* The gRPC C core for Swift: what Swift cannot say itself (unions, macros), and the batches that a client needs, one function each. */
#ifndef PHANTOM_CGRPC_SHIM_H
#define PHANTOM_CGRPC_SHIM_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <string.h>

/* What a call gives back, and what it is sending. Lives until every batch of the call has completed. */
typedef struct {
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code status;
    grpc_slice details;
    grpc_byte_buffer *received;
    grpc_byte_buffer *sending;
} cgrpc_results;

static inline cgrpc_results *cgrpc_results_new(void) {
    cgrpc_results *results = (cgrpc_results *)gpr_zalloc(sizeof *results);
    grpc_metadata_array_init(&results->initial);
    grpc_metadata_array_init(&results->trailing);
    results->status = GRPC_STATUS_UNKNOWN;
    results->details = grpc_empty_slice();
    return results;
}

static inline void cgrpc_results_free(cgrpc_results *results) {
    grpc_metadata_array_destroy(&results->initial);
    grpc_metadata_array_destroy(&results->trailing);
    grpc_slice_unref(results->details);
    if (results->received) grpc_byte_buffer_destroy(results->received);
    if (results->sending) grpc_byte_buffer_destroy(results->sending);
    gpr_free(results);
}

static inline grpc_call *cgrpc_call_new(grpc_channel *channel, grpc_completion_queue *queue, const char *path,
                                        int64_t timeout_us) { /* negative: no limit */
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_us >= 0) {
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(timeout_us, GPR_TIMESPAN));
    }
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call =
        grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    return call;
}

/* A message to send, kept in the results until the next one. */
static inline grpc_byte_buffer *cgrpc_message(cgrpc_results *results, const void *data, size_t len) {
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)data, len);
    if (results->sending) grpc_byte_buffer_destroy(results->sending);
    results->sending = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return results->sending;
}

static inline void cgrpc_op_status(grpc_op *op, cgrpc_results *results) {
    op->op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op->data.recv_status_on_client.trailing_metadata = &results->trailing;
    op->data.recv_status_on_client.status = &results->status;
    op->data.recv_status_on_client.status_details = &results->details;
}

static inline void cgrpc_op_metadata(grpc_op *op, grpc_metadata *metadata, size_t count) {
    op->op = GRPC_OP_SEND_INITIAL_METADATA;
    op->data.send_initial_metadata.metadata = metadata;
    op->data.send_initial_metadata.count = count;
}

/* A whole call of one request and one response. */
static inline grpc_call_error cgrpc_unary(grpc_call *call, cgrpc_results *results, grpc_metadata *metadata,
                                          size_t count, const void *data, size_t len, void *tag) {
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    cgrpc_op_metadata(&ops[0], metadata, count);
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = cgrpc_message(results, data, len);
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &results->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &results->received;
    cgrpc_op_status(&ops[5], results);
    return grpc_call_start_batch(call, ops, 6, tag, NULL);
}

/* The beginning of a call with streams. */
static inline grpc_call_error cgrpc_begin(grpc_call *call, cgrpc_results *results, grpc_metadata *metadata,
                                          size_t count, void *tag) {
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    cgrpc_op_metadata(&ops[0], metadata, count);
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &results->initial;
    return grpc_call_start_batch(call, ops, 2, tag, NULL);
}

/* Completes when the call is over. */
static inline grpc_call_error cgrpc_status(grpc_call *call, cgrpc_results *results, void *tag) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    cgrpc_op_status(&op, results);
    return grpc_call_start_batch(call, &op, 1, tag, NULL);
}

/* One at a time. */
static inline grpc_call_error cgrpc_send(grpc_call *call, cgrpc_results *results, const void *data, size_t len,
                                         void *tag) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = cgrpc_message(results, data, len);
    return grpc_call_start_batch(call, &op, 1, tag, NULL);
}

static inline grpc_call_error cgrpc_half_close(grpc_call *call, void *tag) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    return grpc_call_start_batch(call, &op, 1, tag, NULL);
}

/* One at a time; take what came before the next. */
static inline grpc_call_error cgrpc_receive(grpc_call *call, cgrpc_results *results, void *tag) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &results->received;
    return grpc_call_start_batch(call, &op, 1, tag, NULL);
}

/* Bytes of what was received. */
static inline size_t cgrpc_received_size(cgrpc_results *results) {
    return grpc_byte_buffer_length(results->received);
}

/* Copies what was received to `out` and forgets it; how many bytes, SIZE_MAX if it cannot be read. */
static inline size_t cgrpc_take(cgrpc_results *results, uint8_t *out, size_t room) {
    grpc_byte_buffer_reader reader;
    grpc_slice slice;
    size_t at = 0;
    int good = grpc_byte_buffer_reader_init(&reader, results->received);
    if (good) {
        while (grpc_byte_buffer_reader_next(&reader, &slice)) {
            size_t len = GRPC_SLICE_LENGTH(slice);
            good = good && len <= room - at;
            if (good && len) memcpy(out + at, GRPC_SLICE_START_PTR(slice), len);
            if (good) at += len;
            grpc_slice_unref(slice);
        }
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(results->received);
    results->received = NULL;
    return good ? at : SIZE_MAX;
}

/* The value of a trailer, NULL if there is none. Valid as long as the results. */
static inline const uint8_t *cgrpc_trailer(cgrpc_results *results, const char *name, size_t *len) {
    for (size_t i = 0; i < results->trailing.count; i++) {
        grpc_metadata *entry = &results->trailing.metadata[i];
        if (grpc_slice_str_cmp(entry->key, name) == 0) {
            *len = GRPC_SLICE_LENGTH(entry->value);
            return GRPC_SLICE_START_PTR(entry->value);
        }
    }
    return NULL;
}

static inline const uint8_t *cgrpc_details(cgrpc_results *results, size_t *len) {
    *len = GRPC_SLICE_LENGTH(results->details);
    return GRPC_SLICE_START_PTR(results->details);
}

static inline grpc_metadata *cgrpc_metadata_new(const char *key, const char *value) {
    grpc_metadata *metadata = (grpc_metadata *)gpr_zalloc(sizeof *metadata);
    metadata->key = grpc_slice_from_copied_string(key);
    metadata->value = grpc_slice_from_copied_string(value);
    return metadata;
}

static inline void cgrpc_metadata_free(grpc_metadata *metadata) {
    grpc_slice_unref(metadata->key);
    grpc_slice_unref(metadata->value);
    gpr_free(metadata);
}

/* A connection of one's own to a sidecar on this machine: no proxy between, no other client's broken connection inherited. */
static inline grpc_channel *cgrpc_channel_new(const char *target, int message_max) {
    grpc_arg args[4];
    memset(args, 0, sizeof args);
    const char *names[4] = {"grpc.max_receive_message_length", "grpc.max_send_message_length",
                            "grpc.enable_http_proxy", "grpc.use_local_subchannel_pool"};
    int values[4] = {message_max, message_max, 0, 1};
    for (int i = 0; i < 4; i++) {
        args[i].type = GRPC_ARG_INTEGER;
        args[i].key = (char *)names[i];
        args[i].value.integer = values[i];
    }
    grpc_channel_args all = {4, args};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(target, credentials, &all);
    grpc_channel_credentials_release(credentials);
    return channel;
}

static inline grpc_completion_queue *cgrpc_queue_new(void) {
    grpc_init();
    return grpc_completion_queue_create_for_next(NULL);
}

/* Waits for the next completion: its tag, and whether it was good. */
static inline void *cgrpc_next(grpc_completion_queue *queue, int *good) {
    grpc_event event;
    do {
        event = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    } while (event.type == GRPC_QUEUE_TIMEOUT);
    *good = event.success;
    return event.type == GRPC_OP_COMPLETE ? event.tag : NULL;
}

#endif
