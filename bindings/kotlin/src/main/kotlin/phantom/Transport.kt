package phantom

import io.grpc.CallOptions
import io.grpc.Channel
import io.grpc.ClientCall
import io.grpc.ClientInterceptor
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall
import io.grpc.ManagedChannel
import io.grpc.Metadata
import io.grpc.MethodDescriptor
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup
import io.grpc.netty.shaded.io.netty.channel.epoll.Epoll
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollIoHandler
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioSocketChannel
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress
import io.grpc.netty.shaded.io.netty.util.concurrent.DefaultThreadFactory
import phantom.v1.ErrorCode
import java.util.logging.Level
import java.util.logging.Logger

/** Bytes of data in one message of gRPC; the envelope comes on top. */
internal const val MESSAGE_CAP: Int = 1 shl 20
private const val ENVELOPE = 64 shl 10

/** What HTTP/2 lets be under way: more than the windows of an exchange, which are what bounds it. */
private const val HTTP_WINDOW = 8 shl 20

/** Whether this JVM reaches unix sockets: Netty's epoll is there. */
internal val reachesUnixSockets: Boolean get() = Epoll.isAvailable()

// Netty sets an option of TCP on every channel, and warns that a unix socket has none.
private val bootstrapLog: Logger =
    Logger.getLogger("io.grpc.netty.shaded.io.netty.bootstrap.Bootstrap").apply { if (level == null) level = Level.SEVERE }

/**
 * The threads of all connections. They are never stopped: a call can be cancelled after its connection is gone, and
 * Netty wants its thread for that, too.
 */
private object Threads {
    private val factory = DefaultThreadFactory("phantom", true)
    val unix: EventLoopGroup by lazy { MultiThreadIoEventLoopGroup(THREADS, factory, EpollIoHandler.newFactory()) }
    val loopback: EventLoopGroup by lazy { MultiThreadIoEventLoopGroup(THREADS, factory, NioIoHandler.newFactory()) }
    private const val THREADS = 2
}

/** One connection of gRPC to a sidecar, with the token on every call. */
internal class Transport(
    place: Place,
    token: String,
) {
    val channel: ManagedChannel

    init {
        val socket = place.socket
        if (socket != null && !Epoll.isAvailable()) {
            throw failure(
                ErrorCode.UNSUPPORTED,
                "this JVM has no unix sockets (Netty's epoll is for Linux on x86-64 and ARM64); " +
                    "start the sidecar with --tcp-port and connect to 127.0.0.1:PORT",
                Epoll.unavailabilityCause(),
            )
        }
        checkNotNull(bootstrapLog)
        val builder =
            if (socket != null) {
                NettyChannelBuilder
                    .forAddress(DomainSocketAddress(socket.toFile()))
                    .channelType(EpollDomainSocketChannel::class.java)
                    .eventLoopGroup(Threads.unix)
            } else {
                NettyChannelBuilder
                    .forAddress("127.0.0.1", place.port)
                    .channelType(NioSocketChannel::class.java)
                    .eventLoopGroup(Threads.loopback)
            }
        channel =
            builder
                .overrideAuthority("localhost")
                .usePlaintext()
                .proxyDetector { null } // nobody between us and this machine
                .disableRetry() // a call that was made once is made once
                .maxInboundMessageSize(MESSAGE_CAP + ENVELOPE)
                .flowControlWindow(HTTP_WINDOW)
                .directExecutor() // what a callback does is wake a coroutine, which has its own thread
                .intercept(Bearer(token))
                .build()
    }

    fun close() {
        channel.shutdownNow()
    }
}

private class Bearer(
    token: String,
) : ClientInterceptor {
    private val value = "Bearer $token"

    override fun <Q, A> interceptCall(
        method: MethodDescriptor<Q, A>,
        options: CallOptions,
        next: Channel,
    ): ClientCall<Q, A> =
        object : SimpleForwardingClientCall<Q, A>(next.newCall(method, options)) {
            override fun start(
                listener: Listener<A>,
                headers: Metadata,
            ) {
                headers.put(AUTHORIZATION, value)
                super.start(listener, headers)
            }
        }

    private companion object {
        val AUTHORIZATION: Metadata.Key<String> = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER)
    }
}
