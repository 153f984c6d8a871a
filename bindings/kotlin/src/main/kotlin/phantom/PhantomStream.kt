package phantom

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.filterNotNull
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import phantom.v1.ErrorCode
import phantom.v1.PhantomException
import phantom.v1.PhantomLink
import phantom.v1.Stream
import phantom.v1.StreamOperations
import phantom.v1.StreamServiceRecvRequest
import phantom.v1.StreamServiceSendRequest
import phantom.v1.StreamServiceSetPriorityRequest
import phantom.v1.sent
import kotlin.time.Duration

/** A stream of bytes in a session, beside its messages. Made by [PhantomSession.openStream] and `acceptStream`. */
public class PhantomStream internal constructor(
    private val client: Phantom,
    private val connection: Connection,
    stream: Stream,
) : StreamOperations(stream.ref.sent("ref")),
    AutoCloseable {
    /** Its id in the session; the same at both ends. */
    public val id: UInt = stream.id

    /** The most bytes that [sendUnreliable] can carry. */
    public val maxUnreliableSize: UInt = stream.maxUnreliableSize

    /** The priority of what this side sends: the higher, the sooner it is served; equals take turns. */
    @Volatile
    public var priority: UInt = stream.priority
        private set

    private val sending = Mutex()
    private val receiving = Mutex()
    private var received = 0uL
    private var ended = false

    override suspend fun <T> call(block: suspend (PhantomLink) -> T): T = block(connection.link)

    /**
     * Queues bytes, which arrive in order and once; waits while too much is queued. Cancelled or out of time, a part of
     * them may have been queued: whole pieces of 1 MiB.
     */
    public suspend fun send(
        data: ByteArray,
        timeout: Duration? = null,
    ) {
        val limit = Limit(timeout, "the sidecar did not take the bytes")
        limit.exclusive(sending) {
            for (from in data.indices step MESSAGE_CAP) {
                val whole = from == 0 && data.size <= MESSAGE_CAP
                val piece = if (whole) data else data.copyOfRange(from, minOf(from + MESSAGE_CAP, data.size))
                limit.run { connection.clients.stream.send(StreamServiceSendRequest(ref, piece)) }
            }
        }
    }

    /** Sends bytes at once as one piece that may be lost or overtaken, of at most [maxUnreliableSize]. */
    public suspend fun sendUnreliable(
        data: ByteArray,
        timeout: Duration? = null,
    ) {
        if (data.size.toUInt() > maxUnreliableSize) {
            throw failure(ErrorCode.VALIDATION, "an unreliable piece has at most $maxUnreliableSize bytes, not ${data.size}")
        }
        connection.clients.stream.send(StreamServiceSendRequest(ref, data, unreliable = true), timeout)
    }

    /** Sets the priority of what this side sends, from now on. */
    public suspend fun setPriority(
        priority: UInt,
        timeout: Duration? = null,
    ) {
        connection.clients.stream.setPriority(StreamServiceSetPriorityRequest(ref, priority), timeout)
        this.priority = priority
    }

    /**
     * The next bytes: all that have arrived, up to 256 KiB, or one unreliable piece. Null when the peer finished and
     * everything was received. A call that is cancelled or out of time loses nothing.
     */
    public suspend fun recv(timeout: Duration? = null): ByteArray? {
        val limit = Limit(timeout, "no bytes arrived")
        return limit.exclusive(receiving) {
            if (ended) return@exclusive null
            val piece =
                limit.run { connection.clients.stream.recv(StreamServiceRecvRequest(ref, received)) }.piece.sent("piece")
            received = piece.seq
            ended = piece.endOfStream
            if (ended) null else piece.data
        }
    }

    /** The bytes of the peer as they come, to their end. */
    public fun bytes(): Flow<ByteArray> = forever().map { recv() }.takeWhile { it != null }.filterNotNull()

    /**
     * Gives the stream back: finishes it if the peer's half was received to its end, else abandons both halves. Returns
     * at once; [release] waits for it.
     */
    override fun close() {
        client.ends(
            connection.scope.launch {
                try {
                    release()
                } catch (_: PhantomException) {
                    // it ended with its session
                }
            },
        )
    }

    override fun toString(): String = "PhantomStream($id)"
}
