package phantom

import com.google.protobuf.ByteString
import com.google.protobuf.UnsafeByteOperations
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import phantom.v1.ErrorCode
import phantom.v1.PhantomException
import phantom.v1.failing
import phantom.v1.toFacade
import phantom.v1.toWire
import phantom.v1.wire.ClientFrame
import phantom.v1.wire.Credit
import phantom.v1.wire.ExchangeOpen
import phantom.v1.wire.ExchangeRequest
import phantom.v1.wire.ServerFrame
import kotlin.time.Duration
import phantom.v1.wire.Chunk as WireChunk

private const val OVERHEAD = 64 // credit of a chunk beside its data
private const val CHUNK = 256 shl 10
private const val CHUNK_MIN = 64 shl 10 // none smaller while more is queued
private const val WINDOW = 4 shl 20
private const val GRANT = WINDOW / 4

/**
 * Messages both ways over one call, in chunks and within credits: [PhantomSession.exchange].
 *
 * The call belongs to a coroutine of its own, and what users wait for is in memory: a cancelled [send] or [recv] leaves
 * the exchange whole and loses nothing.
 */
public class PhantomExchange internal constructor(
    private val session: PhantomSession,
    private val connection: Connection,
    private val sendOnly: Boolean,
) {
    private class Incoming(
        val seq: ULong,
        val data: ByteArray,
        val cost: Int,
    )

    /** Counts what could end somebody's wait; everything below is under the lock of this object. */
    private val changes = MutableStateFlow(0L)
    private val outgoing = ArrayDeque<ByteArray>()
    private val incoming = ArrayDeque<Incoming>()
    private val parts = ArrayList<ByteString>()
    private var outgoingBytes = 0L
    private var at = 0 // in the first of them
    private var sent = 0L // messages
    private var taken = 0L
    private var credit = 0L // what may be sent
    private var owed = 0L // credit to grant
    private var unacked = 0L // bytes received since the last credit, which acknowledges them
    private var asking = false
    private var hasMadeRoom = false // in the last look at what is to be sent
    private var error: PhantomException? = null

    // Without a dispatcher: it runs where a chunk arrives and where one is queued, and wakes others only.
    private val work: Job = connection.scope.launch(Dispatchers.Unconfined) { run() }

    /** Queues one message; waits while more than 4 MiB are queued. Cancelled while waiting, nothing is queued. */
    public suspend fun send(
        data: ByteArray,
        timeout: Duration? = null,
    ) {
        val limit = Limit(timeout, "the sidecar did not take the message")
        while (!offer(data)) limit.run { awaitChange { error != null || outgoingBytes <= WINDOW } }
    }

    /** The next message. A cancelled call loses nothing. */
    public suspend fun recv(timeout: Duration? = null): ByteArray {
        val limit = Limit(timeout, "no message arrived")
        while (true) {
            poll()?.let { return it }
            limit.run { awaitChange { error != null || incoming.isNotEmpty() } }
        }
    }

    /** Returns when the session took everything that was sent. */
    public suspend fun flush(timeout: Duration? = null) {
        val limit = Limit(timeout, "the sidecar did not take everything")
        locked {
            if (taken >= sent) return
            asking = true
        }
        limit.run { awaitChange { taken >= sent || error != null } }
        synchronized(this) { if (taken < sent) throw checkNotNull(error) }
    }

    internal suspend fun recvOrNull(): ByteArray? = orderly { recv() }

    /** Ends the call; the session goes on. Returns when no later call can be overtaken by it. */
    internal suspend fun end() {
        withContext(NonCancellable) { work.cancelAndJoin() }
    }

    private fun offer(data: ByteArray): Boolean =
        locked {
            error?.let { throw it }
            if (outgoingBytes > WINDOW) return false
            outgoing.addLast(data.copyOf())
            outgoingBytes += data.size + OVERHEAD
            sent++
            true
        }

    private fun poll(): ByteArray? =
        locked {
            val next = incoming.removeFirstOrNull()
            if (next == null) {
                error?.let { throw it }
                return null
            }
            session.received = next.seq
            owed += next.cost
            unacked += next.data.size + OVERHEAD
            next.data
        }

    private inline fun <T> locked(block: () -> T): T {
        val result = synchronized(this) { block() }
        changes.update { it + 1 }
        return result
    }

    private suspend fun awaitChange(condition: () -> Boolean) {
        changes.first { synchronized(this) { condition() } }
    }

    // --- the call ----------------------------------------------------------------------------------------------------

    private suspend fun run() {
        val why =
            try {
                failing { connection.exchangeStub.exchange(requests()).collect { take(it.frame) } }
                failure(ErrorCode.CONNECTION_CLOSED, "the sidecar ended the exchange")
            } catch (cancelled: CancellationException) {
                lose(failure(ErrorCode.CONNECTION_CLOSED, "the exchange is over"))
                throw cancelled
            } catch (failed: PhantomException) {
                failed
            }
        lose(why)
    }

    private fun lose(why: PhantomException) {
        locked { if (error == null) error = why } // the last frame has the reason, if there was one
    }

    private fun take(frame: ServerFrame) {
        locked {
            when (frame.frameCase) {
                ServerFrame.FrameCase.OPENED -> credit += frame.opened.window
                ServerFrame.FrameCase.CREDIT -> {
                    credit += frame.credit.bytes
                    taken = frame.credit.ack
                }
                ServerFrame.FrameCase.CHUNK -> take(frame.chunk)
                ServerFrame.FrameCase.FAILED -> error = exceptionOf(frame.failed.toFacade())
                else -> return
            }
        }
    }

    private fun take(chunk: WireChunk) {
        val cost = chunk.data.size() + OVERHEAD
        if (chunk.more) {
            parts += chunk.data
            owed += cost
            return
        }
        val data =
            if (parts.isEmpty()) {
                chunk.data.toByteArray()
            } else {
                parts += chunk.data
                ByteString.copyFrom(parts).toByteArray()
            }
        parts.clear()
        incoming.addLast(Incoming(chunk.seq.toULong(), data, cost))
    }

    private fun requests(): Flow<ExchangeRequest> =
        flow {
            val open =
                ExchangeOpen
                    .newBuilder()
                    .setSession(session.ref.toWire())
                    .setAck(session.received.toLong())
                    .setSendOnly(sendOnly)
            emit(request(ClientFrame.newBuilder().setOpen(open)))
            while (true) {
                val seen = changes.value
                val next = synchronized(this@PhantomExchange) { next() }
                if (hasMadeRoom) changes.update { it + 1 } // somebody may wait for it
                if (next != null) emit(request(next)) else changes.first { it != seen }
            }
        }

    private fun request(frame: ClientFrame.Builder): ExchangeRequest = ExchangeRequest.newBuilder().setFrame(frame).build()

    /** What is to be sent now; null if nothing can or need be. */
    private fun next(): ClientFrame.Builder? {
        hasMadeRoom = false
        val message = outgoing.firstOrNull()
        val rest = if (message == null) 0 else message.size - at
        return when {
            owed >= GRANT || unacked >= GRANT -> {
                val grant = Credit.newBuilder().setBytes(owed).setAck(session.received.toLong())
                owed = 0
                unacked = 0
                ClientFrame.newBuilder().setCredit(grant)
            }
            message != null && credit >= minOf(rest, CHUNK_MIN) + OVERHEAD ->
                ClientFrame.newBuilder().setChunk(cut(message, rest))
            asking && message == null -> {
                asking = false
                ClientFrame.newBuilder().setCredit(Credit.newBuilder().setAck(session.received.toLong()))
            }
            else -> null
        }
    }

    private fun cut(
        message: ByteArray,
        rest: Int,
    ): WireChunk.Builder {
        val size = minOf(rest.toLong(), CHUNK.toLong(), credit - OVERHEAD).toInt()
        credit -= size + OVERHEAD
        // Not copied once more: this array is nobody else's.
        val chunk = WireChunk.newBuilder().setData(UnsafeByteOperations.unsafeWrap(message, at, size)).setMore(size < rest)
        at += size
        if (size == rest) {
            at = 0
            outgoing.removeFirst()
            outgoingBytes -= message.size + OVERHEAD
            hasMadeRoom = true
        }
        return chunk
    }
}
