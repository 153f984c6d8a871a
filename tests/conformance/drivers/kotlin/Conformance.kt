// The driver of the conformance suite (tests/conformance/README.md): reads commands, runs them, writes answers.

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import phantom.Phantom
import phantom.PhantomKey
import phantom.PhantomListener
import phantom.PhantomSession
import phantom.PhantomStream
import phantom.fingerprintOf
import phantom.pinOf
import phantom.v1.CipherSuite
import phantom.v1.ClientAuthentication
import phantom.v1.ClientPolicy
import phantom.v1.ConnectionClosedException
import phantom.v1.ConnectionState
import phantom.v1.CookiePolicy
import phantom.v1.GetInfoRequest
import phantom.v1.GetRequest
import phantom.v1.MetricsSnapshot
import phantom.v1.PhantomConfig
import phantom.v1.PhantomException
import phantom.v1.Pin
import phantom.v1.SessionEvent
import phantom.v1.SessionRef
import phantom.v1.StreamResetException
import phantom.v1.TimeoutException
import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.file.Files
import java.nio.file.attribute.PosixFilePermissions
import java.security.MessageDigest
import java.util.concurrent.ConcurrentHashMap
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.TimeSource

private const val PAGE = 4096
private const val CANCELLED = -1
private val DATA_READY = setOf("CLASSICAL_READY", "PQC_UPGRADING", "PQC_READY", "CONNECTED")

private class Missing(
    text: String,
) : Exception(text)

private typealias Arguments = Map<String, JsonPrimitive>

private fun sha256(vararg parts: ByteArray): ByteArray = MessageDigest.getInstance("SHA-256").apply { parts.forEach(::update) }.digest()

private fun ByteArray.hex(): String = joinToString("") { "%02x".format(it) }

private fun String.unhex(): ByteArray = chunked(2).map { it.toInt(16).toByte() }.toByteArray()

private fun content(
    word: String,
    size: Int,
): ByteArray {
    val digests = (0 until PAGE / 32).map { sha256(word.toByteArray(), ByteBuffer.allocate(4).putInt(it).array()) }
    val tail = digests.reduce { all, next -> all + next }.copyOf(PAGE - 8)
    val whole = ByteBuffer.allocate((size + PAGE - 1) / PAGE * PAGE)
    for (number in 0 until whole.capacity() / PAGE) whole.put(tail).putLong(number.toLong())
    return whole.array().copyOf(size)
}

private fun described(data: ByteArray): Map<String, Any> = mapOf("size" to data.size, "sha256" to sha256(data).hex())

/** `camelCase` of a property as the definition has it. */
private fun snake(name: String): String = name.replace(Regex("(?<=[a-z])(?=[A-Z0-9])")) { "_" }.lowercase()

private fun counts(metrics: MetricsSnapshot): Map<String, Any> =
    Regex("""(\w+)=(\d+)(?=[,)])""").findAll("$metrics").associate { snake(it.groupValues[1]) to it.groupValues[2].toLong() } +
        ("uptime_ms" to (metrics.uptime ?: Duration.ZERO).inWholeMilliseconds)

private class Driver {
    private val phantom = Phantom.connect()
    private val things = ConcurrentHashMap<String, Any>()
    private val background = CoroutineScope(Dispatchers.Default)

    private inline fun <reified T> thing(name: String): T = things[name] as? T ?: throw NoSuchElementException("the case has no $name")

    private fun Arguments.text(name: String): String = getValue(name).content

    private fun Arguments.number(
        name: String,
        default: Int? = null,
    ): Int = this[name]?.int ?: default ?: throw NoSuchElementException(name)

    private val Arguments.timeout: Duration get() = number("timeout_ms").milliseconds
    private val Arguments.session: PhantomSession get() = thing(text("session"))
    private val Arguments.listener: PhantomListener get() = thing(text("listener"))

    private fun config(arguments: Arguments): PhantomConfig? {
        val given = arguments.filterKeys { it.startsWith("config.") }
        return if (given.isEmpty()) null else given.entries.fold(PhantomConfig()) { config, (name, value) -> config.with(name, value) }
    }

    private fun PhantomConfig.with(
        name: String,
        value: JsonPrimitive,
    ): PhantomConfig =
        when (name.removePrefix("config.")) {
            "accept_versions" -> copy(acceptVersions = value.content.split(" ").map { it.toUInt() })
            "offer_version" -> copy(offerVersion = value.int.toUInt())
            "bulk_chunk" -> copy(bulkChunk = value.int.toUInt())
            "cookie" -> copy(cookie = CookiePolicy.valueOf(value.content.uppercase()))
            "handshake_timeout_ms" -> copy(handshakeTimeout = value.int.milliseconds)
            "keepalive_interval_ms" -> copy(keepaliveInterval = value.int.milliseconds)
            "max_message" -> copy(maxMessage = value.int.toUInt())
            "max_sessions" -> copy(maxSessions = value.int.toUInt())
            "max_sessions_per_ip" -> copy(maxSessionsPerIp = value.int.toUInt())
            "suite" -> copy(suite = CipherSuite.valueOf(value.content.uppercase().replace('-', '_')))
            else -> throw Missing("this driver does not know the field $name")
        }

    private fun pins(arguments: Arguments): List<Pin> {
        val pin = arguments["pin"]?.content ?: return emptyList()
        return if (arguments["pin_form"]?.content in setOf("bytes", "object")) listOf(pinOf(pin.unhex())) else pin.split(" ").map(::pinOf)
    }

    private suspend fun connect(arguments: Arguments): PhantomSession =
        phantom.connect(
            arguments.text("target"),
            pins(arguments),
            config(arguments),
            arguments["identity"]?.content?.let { thing<PhantomKey>(it) },
            arguments.timeout,
        )

    suspend fun run(
        command: String,
        arguments: Arguments,
    ): Map<String, Any?> =
        when (command) {
            "hello" -> mapOf("version" to phantom.info().packageVersion)
            "reset" -> none { reset() }
            "key" -> key(arguments)
            "check_key" -> mapOf("fingerprint" to fingerprintOf(arguments.text("key_hex").unhex()))
            "listen" -> listen(arguments)
            "accept" ->
                arguments.listener.accept(arguments.timeout).let {
                    made(arguments, it) + ("client_identity" to (it.peerIdentity?.key?.hex() ?: ""))
                }
            "answer" -> answer(arguments)
            "shutdown" -> none { arguments.listener.shutdown() }
            "shutting_down" -> mapOf("value" to arguments.listener.isShutDown)
            "drain" -> none { arguments.listener.drain(arguments.timeout) }
            "connect" -> made(arguments, connect(arguments))
            "echo" -> echo(arguments)
            "await_ready" -> none { arguments.session.awaitReady(arguments.timeout) }
            "send" -> none { arguments.session.send(content(arguments.text("word"), arguments.number("size")), arguments.timeout) }
            "recv" -> described(arguments.session.recv(arguments.timeout))
            "send_many" -> sendMany(arguments)
            "recv_many" -> receiveMany(arguments)
            "flush" -> mapOf("acknowledged" to arguments.session.flushQueue(arguments.timeout))
            "info" -> info(arguments.session)
            "state" -> state(arguments.session)
            "ready" -> ready(arguments.session.state.value)
            "metrics" -> metrics(thing(arguments.text("of")))
            "disconnect" -> disconnect(arguments)
            "open_stream" -> made(arguments, openStream(arguments))
            "accept_stream" -> made(arguments, arguments.session.acceptStream(arguments.timeout))
            "stream_send" -> none { streamSend(arguments) }
            "stream_recv" -> arguments.stream.recv(arguments.timeout).let { described(it ?: ByteArray(0)) + ("end" to (it == null)) }
            "stream_read" -> streamRead(arguments)
            "stream_info" -> arguments.stream.let { made(it) + mapOf("priority" to it.priority, "max_unreliable_size" to it.maxUnreliableSize) }
            "stream_priority" -> none { arguments.stream.setPriority(arguments.text("priority").toUInt()) }
            "stream_finish" -> none { arguments.stream.finish() }
            "stream_reset" -> none { arguments.stream.reset(arguments.number("code", 0).toUInt()) }
            "stream_stop" -> none { arguments.stream.stop(arguments.number("code", 0).toUInt()) }
            "stream_release" -> none { arguments.stream.release().also { things.remove(arguments.text("stream")) } }
            "open_streams" -> several(arguments) { openStream(arguments) }
            "accept_streams" -> several(arguments) { arguments.session.acceptStream(arguments.timeout) }
            "fill_streams" -> fillStreams(arguments)
            "drain_streams" -> drainStreams(arguments)
            "rekey" -> mapOf("epoch" to arguments.session.rekey(arguments.timeout))
            "export" ->
                arguments.session
                    .exportKeyingMaterial(arguments.text("label"), arguments.number("length").toUInt())
                    .let { mapOf("material" to it.hex()) }
            "watch" -> none { things["events of ${arguments.text("session")}"] = followed(arguments.session) }
            "event" -> event(arguments)
            "stale" -> stale(arguments.session)
            "contract" -> none { phantom.calls().first.sidecar.getInfo(GetInfoRequest(arguments.number("version").toUInt())) }
            "token" -> none { token(arguments.text("token")) }
            else -> throw Missing("no command '$command'")
        }

    private suspend fun none(block: suspend () -> Unit): Map<String, Any?> {
        block()
        return emptyMap()
    }

    private fun made(
        arguments: Arguments,
        session: PhantomSession,
    ): Map<String, Any?> {
        things[arguments.text("name")] = session
        return mapOf("id" to session.id, "peer_addr" to session.peerAddress)
    }

    private val Arguments.stream: PhantomStream get() = thing(text("stream"))

    private fun made(stream: PhantomStream): Map<String, Any?> = mapOf("stream_id" to stream.id)

    private fun made(
        arguments: Arguments,
        stream: PhantomStream,
    ): Map<String, Any?> {
        things[arguments.text("name")] = stream
        return made(stream)
    }

    private suspend fun openStream(arguments: Arguments): PhantomStream {
        val priority = arguments["priority"]?.content?.toUInt() ?: 0u
        return arguments.session.openStream(priority, arguments["wait"]?.content != "false", arguments.timeout)
    }

    private suspend fun several(
        arguments: Arguments,
        make: suspend () -> PhantomStream,
    ): Map<String, Any?> {
        val count = arguments.number("count")
        repeat(count) { things["${arguments.text("name")}/$it"] = make() }
        return mapOf("count" to count)
    }

    private suspend fun streamSend(arguments: Arguments) {
        val data = content(arguments.text("word"), arguments.number("size"))
        if (arguments["unreliable"]?.content == "true") {
            arguments.stream.sendUnreliable(data, arguments.timeout)
        } else {
            arguments.stream.send(data, arguments.timeout)
        }
    }

    private suspend fun streamRead(arguments: Arguments): Map<String, Any?> {
        val size = arguments["size"]?.int ?: Int.MAX_VALUE
        val all = ByteArrayOutputStream()
        var ended = false
        while (!ended && all.size() < size) {
            val piece = arguments.stream.recv(arguments.timeout)
            if (piece == null) ended = true else all.write(piece)
        }
        return described(all.toByteArray()) + ("end" to ended)
    }

    private suspend fun fillStreams(arguments: Arguments): Map<String, Any?> {
        repeat(arguments.number("count")) { number ->
            val stream = thing<PhantomStream>("${arguments.text("streams")}/$number")
            stream.send(content("${arguments.text("word")}/$number", arguments.number("size")), arguments.timeout)
            stream.finish()
        }
        return emptyMap()
    }

    private suspend fun drainStreams(arguments: Arguments): Map<String, Any?> {
        val count = arguments.number("count")
        val all = MessageDigest.getInstance("SHA-256")
        repeat(count) { number ->
            val whole = ByteArrayOutputStream()
            thing<PhantomStream>("${arguments.text("streams")}/$number").bytes().collect { whole.write(it) }
            all.update(sha256(whole.toByteArray()))
        }
        return mapOf("count" to count, "sha256" to all.digest().hex())
    }

    private fun followed(session: PhantomSession): Channel<SessionEvent> {
        val events = Channel<SessionEvent>(Channel.UNLIMITED)
        background.launch(start = CoroutineStart.UNDISPATCHED) {
            session.events().collect { events.send(it) }
            events.close()
        }
        return events
    }

    private suspend fun event(arguments: Arguments): Map<String, Any?> {
        val events = thing<Channel<SessionEvent>>("events of ${arguments.text("session")}")
        val wanted = arguments.text("kind")
        return withTimeout(arguments.timeout) {
            for (event in events) {
                when (val choice = event.event) {
                    is SessionEvent.EventChoice.StateChanged ->
                        if (wanted == "state") return@withTimeout mapOf("state" to choice.value.state.code, "reason" to choice.value.reason)
                    is SessionEvent.EventChoice.Rekeyed ->
                        if (wanted == "rekeyed") {
                            val rekeyed = choice.value
                            return@withTimeout mapOf("epoch" to rekeyed.epoch, "by_peer" to rekeyed.byPeer, "reason" to rekeyed.reason)
                        }
                    else -> Unit
                }
            }
            throw NoSuchElementException("the events have ended")
        }
    }

    private fun policy(arguments: Arguments): ClientPolicy? =
        when (arguments["clients"]?.content ?: "none") {
            "none" -> null
            "optional" -> ClientPolicy(ClientAuthentication.OPTIONAL)
            else ->
                ClientPolicy(
                    ClientAuthentication.REQUIRED,
                    arguments["authorized"]?.content.orEmpty().split(" ").filter(String::isNotEmpty).map(::pinOf),
                    arguments["authorized_file"]?.content.orEmpty(),
                )
        }

    private suspend fun key(arguments: Arguments): Map<String, Any?> {
        val seed = arguments["seed_hex"]?.content
        val key = if (seed == null) phantom.generateSigningKey() else phantom.importSigningKey(seed.unhex())
        things[arguments.text("name")] = key
        return mapOf("verifying_key" to key.verifyingKey.key.hex(), "fingerprint" to key.verifyingKey.fingerprint)
    }

    private suspend fun listen(arguments: Arguments): Map<String, Any?> {
        val addresses = (arguments["address"]?.content ?: "tcp://127.0.0.1:0").split(" ").toTypedArray()
        val key = arguments["key"]?.content?.let { thing<PhantomKey>(it) }
        val reuse = arguments["reuse_port"]?.content == "true"
        val listener = phantom.listen(*addresses, key = key, config = config(arguments), clients = policy(arguments), reusePort = reuse)
        things[arguments.text("name")] = listener
        val url = listener.urls.first()
        val address = url.substringAfter("@")
        return mapOf(
            "url" to url,
            "urls" to listener.urls.size,
            "address" to address,
            "host" to address.substringBeforeLast(":"),
            "port" to address.substringAfterLast(":").toInt(),
            "scheme" to url.substringBefore("://"),
            "fingerprint" to url.substringAfter("://").substringBefore("@"),
            "verifying_key" to listener.verifyingKey.key.hex(),
        )
    }

    private suspend fun answer(arguments: Arguments): Map<String, Any?> {
        val session = arguments.listener.accept(arguments.timeout)
        made(arguments, session)
        val message = session.recv(arguments.timeout)
        session.send(message, arguments.timeout)
        session.flushQueue(arguments.timeout)
        return described(message)
    }

    private suspend fun echo(arguments: Arguments): Map<String, Any?> {
        val session = connect(arguments)
        made(arguments, session)
        session.send(arguments.text("text").toByteArray(), arguments.timeout)
        return described(session.recv(arguments.timeout)).also { session.disconnect(timeout = arguments.timeout) }
    }

    private suspend fun sendMany(arguments: Arguments): Map<String, Any?> {
        val session = arguments.session
        repeat(arguments.number("count")) { number ->
            session.send(content("${arguments.text("word")}/$number", arguments.number("size")), arguments.timeout)
        }
        return emptyMap()
    }

    private suspend fun receiveMany(arguments: Arguments): Map<String, Any?> {
        val session = arguments.session
        val poll = arguments.number("poll_ms", 0)
        val end = TimeSource.Monotonic.markNow() + arguments.timeout
        val all = MessageDigest.getInstance("SHA-256")
        var count = 0
        while (count < arguments.number("count")) {
            try {
                all.update(sha256(session.recv(if (poll > 0) poll.milliseconds else arguments.timeout)))
                count++
            } catch (late: TimeoutException) {
                if (end.hasPassedNow()) throw late
            }
        }
        return mapOf("count" to count, "sha256" to all.digest().hex())
    }

    private suspend fun info(session: PhantomSession): Map<String, Any?> {
        session.refresh()
        val negotiated = session.negotiated
        val handshake = session.handshake
        return mapOf(
            "id" to session.id,
            "peer_addr" to session.peerAddress,
            "peer_identity" to (session.peerIdentity?.key?.hex() ?: ""),
            "queued" to session.queued,
            "version" to negotiated.version,
            "suite" to negotiated.suite.code,
            "receive_suite" to negotiated.receiveSuite.code,
            "leg" to negotiated.leg.name.lowercase(),
            "epoch" to negotiated.epoch,
            "handshake_us" to (handshake.duration ?: Duration.ZERO).inWholeMicroseconds,
            "handshake_bytes_sent" to handshake.bytesSent,
            "handshake_bytes_received" to handshake.bytesReceived,
            "handshake_retries" to handshake.retries,
            "algorithms" to handshake.algorithms.joinToString(" "),
        )
    }

    private fun state(session: PhantomSession) =
        mapOf("state" to session.state.value.code, "last_error" to (session.lastError?.code?.code ?: 0))

    private fun ready(state: ConnectionState) =
        mapOf("data_ready" to (state.name in DATA_READY), "pqc_ready" to (state.name in setOf("PQC_READY", "CONNECTED")))

    private suspend fun metrics(of: Any): Map<String, Any?> =
        counts(if (of is PhantomSession) of.metrics() else (of as PhantomListener).metrics())

    private suspend fun disconnect(arguments: Arguments): Map<String, Any?> {
        val code = arguments.number("code", 0)
        return mapOf("all_acknowledged" to arguments.session.disconnect(code.toUInt(), arguments.timeout))
    }

    private suspend fun stale(session: PhantomSession): Map<String, Any?> {
        phantom.calls().first.session.get(GetRequest(SessionRef(session.ref.handle + (1uL shl 20))))
        return emptyMap()
    }

    private suspend fun token(token: String) {
        val file = Files.createTempFile("token", "", PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rw-------")))
        try {
            Files.write(file, token.toByteArray())
            Phantom.connect(tokenFile = file).use { it.info() }
        } finally {
            Files.delete(file)
        }
    }

    private suspend fun reset() {
        val left = things.values.toList()
        things.clear()
        coroutineScope {
            left
                .map { thing ->
                    async {
                        try {
                            when (thing) {
                                is PhantomSession -> thing.disconnect(timeout = 1.milliseconds)
                                is PhantomListener -> thing.shutdown()
                                is PhantomKey -> thing.free()
                            }
                        } catch (_: PhantomException) {
                            // it is over
                        }
                    }
                }.awaitAll()
        }
    }

    fun close() = phantom.close()
}

private fun json(value: Any?): JsonElement =
    when (value) {
        is Boolean -> JsonPrimitive(value)
        is UInt -> JsonPrimitive(value.toLong())
        is ULong -> JsonPrimitive(value.toLong())
        is Number -> JsonPrimitive(value)
        is Map<*, *> -> JsonObject(value.entries.associate { "${it.key}" to json(it.value) })
        else -> JsonPrimitive("$value")
    }

private fun error(
    code: Int,
    message: String?,
): Map<String, Any?> = mapOf("error" to mapOf("code" to code, "message" to message))

private suspend fun answered(
    driver: Driver,
    command: String,
    arguments: Arguments,
): Map<String, Any?> =
    try {
        mapOf("result" to driver.run(command, arguments))
    } catch (missing: Missing) {
        mapOf("missing" to missing.message)
    } catch (closed: ConnectionClosedException) {
        val peer = closed.detail?.peerCode?.toInt() ?: -1
        mapOf("error" to mapOf("code" to closed.code.code, "message" to closed.message, "peer_code" to peer))
    } catch (reset: StreamResetException) {
        val code = reset.detail?.resetCode?.toInt()
        mapOf("error" to mapOf("code" to reset.code.code, "message" to reset.message, "reset_code" to code))
    } catch (failed: PhantomException) {
        error(failed.code.code, failed.message)
    } catch (_: CancellationException) {
        error(CANCELLED, "cancelled")
    } catch (other: Exception) {
        error(0, "$other")
    }

@Synchronized
private fun write(
    id: Int,
    answer: Map<String, Any?>,
) {
    println(json(mapOf("id" to id) + answer))
    System.out.flush()
}

fun main(): Unit =
    runBlocking(Dispatchers.Default) {
        val driver = Driver()
        val jobs = ConcurrentHashMap<Int, Job>()
        coroutineScope {
            for (line in generateSequence(::readLine)) {
                val command = Json.parseToJsonElement(line).jsonObject.mapValues { it.value.jsonPrimitive }
                val id = command.getValue("id").int
                val name = command.getValue("do").content
                if (name == "cancel") {
                    jobs[command.getValue("command").int]?.cancel()
                    write(id, mapOf("result" to emptyMap<String, Any>()))
                    continue
                }
                // Begun at once: a command that is cancelled before it began has to answer, too.
                val job = launch(start = CoroutineStart.UNDISPATCHED) { write(id, answered(driver, name, command - "id" - "do")) }
                jobs[id] = job
                job.invokeOnCompletion { jobs.remove(id) }
            }
            jobs.values.toList().forEach { it.cancelAndJoin() }
        }
        driver.close()
    }
