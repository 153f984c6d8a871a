package phantom

import io.grpc.Metadata
import io.grpc.ServerInterceptors
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.supervisorScope
import phantom.v1.AccessDeniedException
import phantom.v1.ConfigException
import phantom.v1.ConnectionState
import phantom.v1.Contract
import phantom.v1.ContractVersionException
import phantom.v1.GetInfoRequest
import phantom.v1.GetRequest
import phantom.v1.NetworkException
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.RuntimeInitException
import phantom.v1.SessionNotFoundException
import phantom.v1.SessionRef
import phantom.v1.TimeoutException
import phantom.v1.TransportException
import phantom.v1.ValidationException
import phantom.v1.wire.GetInfoResponse
import phantom.v1.wire.Info
import phantom.v1.wire.SidecarServiceGrpcKt.SidecarServiceCoroutineImplBase
import java.net.InetAddress
import java.net.InetSocketAddress
import java.nio.file.Files
import java.nio.file.attribute.PosixFilePermissions
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

private const val TOKEN = "00000000000000000000000000000000000000000000000000000000000000aa"

/** Something that answers as a sidecar of another version does, or not at all. */
private class Impostor(
    private val version: Int,
    private val silent: Boolean = false,
) : SidecarServiceCoroutineImplBase(),
    AutoCloseable {
    val asked = CompletableDeferred<String?>()
    private val server =
        NettyServerBuilder
            .forAddress(InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
            .addService(
                ServerInterceptors.intercept(
                    this,
                    object : io.grpc.ServerInterceptor {
                        override fun <Q, A> interceptCall(
                            call: io.grpc.ServerCall<Q, A>,
                            headers: Metadata,
                            next: io.grpc.ServerCallHandler<Q, A>,
                        ): io.grpc.ServerCall.Listener<Q> {
                            asked.complete(headers.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER)))
                            return next.startCall(call, headers)
                        }
                    },
                ),
            ).build()
            .start()
    val address = "127.0.0.1:${server.port}"

    override suspend fun getInfo(request: phantom.v1.wire.GetInfoRequest): GetInfoResponse {
        if (silent) awaitCancellation()
        return GetInfoResponse.newBuilder().setInfo(Info.newBuilder().setContractVersion(version)).build()
    }

    override fun close() {
        server.shutdownNow()
    }
}

private fun Home.withToken(
    text: String = TOKEN,
    mode: String = "rw-------",
) = path.resolve("token").also {
    Files.write(it, text.toByteArray())
    Files.setPosixFilePermissions(it, PosixFilePermissions.fromString(mode))
}

/** A wait that has begun: its first part ran, up to where it suspends. */
private fun <T> CoroutineScope.begun(block: suspend () -> T): Deferred<T> = async(start = CoroutineStart.UNDISPATCHED) { block() }

/** Sidecars that are absent, slow, killed, others than expected, and servers that are gone. */
class FaultsTest {
    @Test
    fun `an absent sidecar is a network error, and waiting for it says so`() =
        live {
            Home().use { home ->
                home.client().use { phantom ->
                    val absent = assertFailsWith<NetworkException> { phantom.info() }
                    assertContains(absent.message.orEmpty(), "there is no sidecar at ${home.socket}")
                    assertTrue(absent.isRetryable)
                    val late = assertFailsWith<TimeoutException> { phantom.waitReady(300.milliseconds) }
                    assertContains(late.message.orEmpty(), "there is no sidecar at ${home.socket}")
                }
            }
        }

    @Test
    fun `a sidecar that comes late is waited for`() =
        live {
            Home().use { home ->
                RawSidecar(home).use { sidecar ->
                    home.client().use { phantom ->
                        val waiting = begun { phantom.waitReady(60.seconds) }
                        assertTrue(waiting.isActive)
                        sidecar.start()
                        waiting.await()
                        assertTrue(phantom.health().ready)
                    }
                }
            }
        }

    @Test
    fun `a sidecar that does not answer is out of time`() =
        live {
            Home().use { home ->
                Impostor(1, silent = true).use { silent ->
                    Phantom.connect(silent.address, home.withToken()).use { phantom ->
                        assertFailsWith<TimeoutException> { phantom.waitReady(500.milliseconds) }
                        assertEquals("Bearer $TOKEN", silent.asked.await())
                    }
                }
            }
        }

    @Test
    fun `an older and a newer contract version are refused`() =
        live {
            Home().use { home ->
                for (version in listOf(Contract.VERSION.toInt() - 1, Contract.VERSION.toInt() + 1)) {
                    Impostor(version).use { other ->
                        Phantom.connect(other.address, home.withToken()).use { phantom ->
                            val refused = assertFailsWith<ContractVersionException> { phantom.waitReady(30.seconds) }
                            assertContains(refused.message.orEmpty(), "contract version $version ")
                        }
                    }
                }
            }
        }

    @Test
    fun `a sidecar refuses clients of another contract version`() =
        live {
            launched().use { phantom ->
                val (clients, _) = phantom.calls()
                assertFailsWith<ContractVersionException> { clients.sidecar.getInfo(GetInfoRequest(Contract.VERSION + 1u)) }
                assertFailsWith<SessionNotFoundException> { clients.session.get(GetRequest(SessionRef(4711uL))) }
            }
        }

    @Test
    fun `a wrong token is denied at once`() =
        live {
            Home().use { home ->
                RawSidecar(home).use { sidecar ->
                    sidecar.start()
                    sidecar.awaitLine()
                    Phantom.connect("unix:${home.socket}", home.withToken()).use { phantom ->
                        val denied = assertFailsWith<AccessDeniedException> { phantom.waitReady(60.seconds) }
                        assertFalse(TOKEN in denied.stackTraceToString())
                    }
                }
            }
        }

    @Test
    fun `files that others could reach are not used`() =
        live {
            Home().use { home ->
                Impostor(1).use { other ->
                    for ((text, mode, why) in listOf(
                        Triple(TOKEN, "rw-r--r--", "chmod 600"),
                        Triple("short", "rw-------", "64 hexadecimal"),
                        Triple(TOKEN.replace('0', 'x'), "rw-------", "64 hexadecimal"),
                    )) {
                        val file = home.withToken(text, mode)
                        Phantom.connect(other.address, file).use { phantom ->
                            val refused = assertFailsWith<AccessDeniedException> { phantom.waitReady(30.seconds) }
                            assertContains(refused.message.orEmpty(), why)
                        }
                        Files.delete(file)
                    }
                    val link = home.path.resolve("link")
                    Files.createSymbolicLink(link, home.withToken())
                    Phantom.connect(other.address, link).use { phantom ->
                        assertFailsWith<AccessDeniedException> { phantom.waitReady(30.seconds) }
                    }
                    assertFalse(other.asked.isCompleted)
                }
                Files.createFile(home.socket)
                Files.setPosixFilePermissions(home.path, PosixFilePermissions.fromString("rwxr-xr-x"))
                home.client().use { phantom ->
                    val open = assertFailsWith<ConfigException> { phantom.waitReady(30.seconds) }
                    assertContains(open.message.orEmpty(), "chmod 700")
                }
            }
        }

    @Test
    fun `addresses elsewhere are refused`() {
        for (address in listOf("example.org:1", "10.0.0.1:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:x")) {
            assertFailsWith<ConfigException>(address) { Phantom.connect(address) }
        }
    }

    @Test
    fun `address and token come from the environment, or lie where the sidecar puts them`() {
        val given = mapOf("PHANTOM_SIDECAR_ADDRESS" to "127.0.0.1:9", "PHANTOM_SIDECAR_TOKEN_FILE" to "/t", "XDG_RUNTIME_DIR" to "/run/user/7")
        Place.find(null, null, given).let { assertEquals("127.0.0.1:9 /t", "${it.address} ${it.tokenFile}") }
        Place.find("unix:/x/s", null, emptyMap()).let { assertEquals("unix:/x/s /x/s.token", "${it.address} ${it.tokenFile}") }
        val runtime = given - "PHANTOM_SIDECAR_ADDRESS" - "PHANTOM_SIDECAR_TOKEN_FILE"
        Place.find(null, null, runtime).let {
            assertEquals("unix:/run/user/7/phantom/sidecar.sock", it.address)
            assertEquals("/run/user/7/phantom/sidecar.sock.token", "${it.tokenFile}")
        }
        Place.find("127.0.0.1:9", null, runtime).let { assertEquals("/run/user/7/phantom/tcp-9.token", "${it.tokenFile}") }
        assertTrue(Place.find(null, null, emptyMap()).address.endsWith("/sidecar.sock"))
    }

    @Test
    fun `a killed sidecar is one error on every pending call, and a new one with another token works`() =
        live {
            Home().use { home ->
                RawSidecar(home).use { sidecar ->
                    home.client().use { phantom ->
                        sidecar.start()
                        phantom.waitReady(60.seconds)
                        val token = Files.readAllBytes(home.path.resolve("s.sock.token")).decodeToString()
                        val pair = phantom.pair()
                        supervisorScope {
                            val pending =
                                listOf(
                                    begun { pair.here.recv() },
                                    begun { pair.there.messages().toList() },
                                    begun { pair.listener.accept() },
                                    begun { pair.here.send(ByteArray(MESSAGE_CAP + 1)).also { pair.here.exchange { it.recv() } } },
                                    begun { pair.there.awaitReady().also { awaitLost(pair.there) } },
                                )
                            pair.here.lastError
                            sidecar.kill()
                            for (call in pending) assertFailsWith<NetworkException> { call.await() }
                        }
                        assertEquals(ConnectionState.DEAD, pair.here.state.first { it == ConnectionState.DEAD })
                        assertTrue(pair.here.lastError is NetworkException)
                        assertFalse(pair.here.disconnect())
                        sidecar.start()
                        phantom.waitReady(60.seconds)
                        assertFalse(token == Files.readAllBytes(home.path.resolve("s.sock.token")).decodeToString())
                        val again = phantom.pair()
                        again.here.send("again".toByteArray())
                        assertEquals("again", again.there.recv(30.seconds).decodeToString())
                        assertFailsWith<NetworkException> { pair.here.recv() }
                        assertFailsWith<NetworkException> { pair.here.send(ByteArray(1)) }
                    }
                }
            }
        }

    private suspend fun awaitLost(session: PhantomSession): Nothing {
        session.state.first { it == ConnectionState.DEAD }
        throw checkNotNull(session.lastError)
    }

    @Test
    fun `a sidecar that is stopped in order ends every pending call, too`() =
        live {
            Home().use { home ->
                RawSidecar(home).use { sidecar ->
                    sidecar.start()
                    home.client().use { phantom ->
                        phantom.waitReady(60.seconds)
                        val pair = phantom.pair()
                        supervisorScope {
                            val pending = listOf(begun { pair.here.recv() }, begun { pair.there.recv() }, begun { pair.listener.accept() })
                            sidecar.terminate()
                            for (call in pending) assertFailsWith<TransportException> { call.await() }
                        }
                        assertFailsWith<NetworkException> { phantom.waitForLoss() }
                    }
                }
            }
        }

    private suspend fun Phantom.waitForLoss() {
        while (true) lease()
    }

    @Test
    fun `a launched sidecar that was killed is started again`() =
        live {
            launched().use { phantom ->
                val first = phantom.info().pid
                val session = phantom.pair().here
                ProcessHandle.of(first.toLong()).get().destroyForcibly()
                assertFailsWith<NetworkException> { session.recv() }
                phantom.waitReady(60.seconds)
                assertFalse(first == phantom.info().pid)
            }
        }

    @Test
    fun `a launched sidecar ends with its client and leaves nothing`() =
        live {
            val phantom = launched()
            val process = ProcessHandle.of(phantom.info().pid.toLong()).get()
            val session = phantom.pair().here
            supervisorScope {
                val pending = begun { session.recv() }
                phantom.close()
                assertFailsWith<PhantomException> { pending.await() }
            }
            assertFalse(process.isAlive)
            phantom.close()
            assertFailsWith<RuntimeInitException> { phantom.health() }
            assertEquals("Phantom(", phantom.toString().take(8))
        }

    @Test
    fun `what cannot be started says why`() =
        live {
            val none = assertFailsWith<RuntimeInitException> { Phantom.launch(listOf("/nonexistent/phantom")) }
            assertContains(none.message.orEmpty(), "is Phantom installed?")
            Phantom.launch(listOf("sh", "-c", "echo it broke >&2; exit 3")).use { phantom ->
                val ended = assertFailsWith<RuntimeInitException> { phantom.waitReady(30.seconds) }
                assertContains(ended.message.orEmpty(), "exit code 3: it broke")
            }
            Phantom.launch(COMMAND, listOf("--no-such-option")).use { phantom ->
                assertFailsWith<RuntimeInitException> { phantom.waitReady(60.seconds) }
            }
        }

    @Test
    fun `the loopback interface does where there is no unix socket`() =
        live {
            launched(unix = false).use { phantom ->
                assertContains(phantom.toString(), "127.0.0.1:")
                val pair = phantom.pair()
                pair.here.send(ByteArray(3 * MESSAGE_CAP))
                assertEquals(3 * MESSAGE_CAP, pair.there.recv(30.seconds).size)
            }
        }

    @Test
    fun `a server that is gone ends its sessions`() =
        live {
            launched().use { phantom ->
                val server = launched()
                val listener = server.listen("127.0.0.1:0")
                val session = phantom.connect(listener.urls.first(), timeout = 30.seconds)
                val accepted = listener.accept(30.seconds)
                accepted.send("last".toByteArray())
                accepted.flushQueue()
                supervisorScope {
                    assertEquals("last", session.recv(30.seconds).decodeToString())
                    val pending = begun { session.recv() }
                    ProcessHandle.of(server.info().pid.toLong()).get().destroyForcibly()
                    assertFailsWith<TransportException> { pending.await() }
                }
                session.state.first { it in listOf(ConnectionState.DEAD, ConnectionState.FAILED, ConnectionState.CLOSED) }
                assertFailsWith<PhantomException> { session.send(ByteArray(1)) }
                session.disconnect()
                val refused = assertFailsWith<PhantomException> { phantom.connect(listener.urls.first(), timeout = 10.seconds) }
                assertTrue(refused is TransportException, "$refused")
                server.close()
            }
        }

    @Test
    fun `a message above every limit is refused before it is sent`() =
        live {
            launched().use { phantom ->
                val pair = phantom.pair()
                val most = Contract.MAX_MESSAGE.toInt()
                assertFailsWith<ValidationException> { pair.here.send(ByteArray(most + 1)) }
                val largest = ByteArray(most) { it.toByte() }
                val sending = async { pair.here.send(largest) }
                assertTrue(largest.contentEquals(pair.there.recv(60.seconds)))
                sending.await()
                assertTrue(pair.here.disconnect())
            }
        }

    @Test
    fun `a hundred sessions at once`() =
        live {
            launched().use { phantom ->
                val listener = phantom.listen("127.0.0.1:0", config = PhantomConfig(maxSessionsPerIp = 0u, maxInflightPerSource = 1000u))
                val there = async { List(100) { listener.accept(60.seconds) } }
                val here = List(100) { async { phantom.connect(listener.urls.first(), timeout = 60.seconds) } }.awaitAll()
                val echo = there.await().map { session -> async { repeat(10) { session.send(session.recv()) } } }
                val done =
                    here.mapIndexed { number, session ->
                        async {
                            repeat(10) { round ->
                                val text = "$number/$round"
                                session.send(text.toByteArray())
                                assertEquals(text, session.recv(60.seconds).decodeToString())
                            }
                            session.disconnect()
                        }
                    }
                echo.awaitAll()
                done.awaitAll()
                assertEquals(0, there.await().map { async { it.disconnect() } }.awaitAll().count { false })
                listener.shutdown()
                val left = phantom.lease()
                assertEquals(0u, left.sessions)
                assertEquals(0u, left.listeners)
            }
        }
}
