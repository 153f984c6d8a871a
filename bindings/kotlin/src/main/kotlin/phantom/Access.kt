package phantom

import phantom.v1.ErrorCode
import phantom.v1.PhantomException
import java.io.IOException
import java.nio.file.FileSystems
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.NoSuchFileException
import java.nio.file.Path
import java.nio.file.Paths

private const val TOKEN_CHARACTERS = 64
private const val UNIX = "unix:"
private const val GROUP_AND_OTHERS = 0x3F // 077
private const val GROUP_AND_OTHERS_WRITE = 0x12 // 022
private const val STICKY = 0x200 // 01000
private val LOOPBACK = setOf("127.0.0.1", "localhost", "[::1]")

/**
 * Where a sidecar is: its address, `unix:PATH` or `127.0.0.1:PORT`, and the file with its token.
 *
 * Whoever could put another sidecar or token in their place could be mistaken for it, so that the files are checked
 * before anything is sent: they must be this user's alone.
 */
internal class Place(
    val address: String,
    val tokenFile: Path,
) {
    val socket: Path? = if (address.startsWith(UNIX)) Paths.get(address.removePrefix(UNIX)).toAbsolutePath() else null
    val port: Int =
        if (socket != null) {
            0
        } else {
            address.substringAfterLast(':', "").toIntOrNull()?.takeIf { it in 1..0xFFFF }
                ?: throw failure(ErrorCode.CONFIG, "$address is no address; use unix:PATH or 127.0.0.1:PORT")
        }

    init {
        if (socket == null && address.substringBeforeLast(':') !in LOOPBACK) {
            throw failure(ErrorCode.CONFIG, "$address is not on this machine; use unix:PATH or 127.0.0.1:PORT")
        }
    }

    /** Reads the token. Network if no sidecar is there, Config or AccessDenied if others could reach the files. */
    fun token(): String {
        if (socket != null) {
            if (!Files.exists(socket, NOFOLLOW_LINKS)) {
                throw failure(ErrorCode.NETWORK, "there is no sidecar at $socket; start one with `phantom sidecar`")
            }
            checkPrivate(socket.parent)
        }
        return readToken(tokenFile)
    }

    fun hasTokenFile(): Boolean = Files.exists(tokenFile, NOFOLLOW_LINKS)

    companion object {
        /** As every client finds it: by argument, by environment, in the user's runtime directory. */
        fun find(
            address: String?,
            tokenFile: Path?,
            environment: Map<String, String>,
        ): Place {
            val at =
                address
                    ?: environment["PHANTOM_SIDECAR_ADDRESS"]?.ifEmpty { null }
                    ?: "$UNIX${runtimeDirectory(environment).resolve("sidecar.sock")}"
            val file =
                tokenFile
                    ?: environment["PHANTOM_SIDECAR_TOKEN_FILE"]?.ifEmpty { null }?.let { Paths.get(it) }
                    ?: tokenFileOf(at, environment)
            return Place(at, file)
        }

        private fun tokenFileOf(
            address: String,
            environment: Map<String, String>,
        ): Path =
            if (address.startsWith(UNIX)) {
                Paths.get("${address.removePrefix(UNIX)}.token")
            } else {
                runtimeDirectory(environment).resolve("tcp-${address.substringAfterLast(':')}.token")
            }

        private fun runtimeDirectory(environment: Map<String, String>): Path {
            val base = environment["XDG_RUNTIME_DIR"].orEmpty()
            if (base.startsWith("/")) return Paths.get(base, "phantom")
            val uid = ownUid()
            return Paths.get(System.getProperty("java.io.tmpdir"), if (uid == null) "phantom" else "phantom-$uid")
        }
    }
}

internal fun failure(
    code: ErrorCode,
    text: String,
    cause: Throwable? = null,
): PhantomException = PhantomException.of(code, text, null, cause)

private val posix = "unix" in FileSystems.getDefault().supportedFileAttributeViews()

private fun attribute(
    path: Path,
    name: String,
): Int = Files.getAttribute(path, "unix:$name", NOFOLLOW_LINKS) as Int

/** The user's number; null where users have none. */
private fun ownUid(): Int? {
    if (!posix) return null
    val own = Paths.get("/proc/self")
    return attribute(if (Files.exists(own)) own else Paths.get(System.getProperty("user.home")), "uid")
}

private fun checkPrivate(directory: Path) {
    if (!posix) return
    val mode: Int
    val parentMode: Int
    val parentOwner: Int
    val isOwn: Boolean
    try {
        mode = attribute(directory, "mode")
        parentMode = attribute(directory.parent, "mode")
        parentOwner = attribute(directory.parent, "uid")
        isOwn = attribute(directory, "uid") == ownUid()
    } catch (unreadable: IOException) {
        throw failure(ErrorCode.CONFIG, "$directory cannot be looked at", unreadable)
    }
    val wrong =
        when {
            !Files.isDirectory(directory, NOFOLLOW_LINKS) -> "$directory is not a directory (links are not followed)"
            !isOwn -> "the directory $directory belongs to another user"
            mode and GROUP_AND_OTHERS != 0 -> "other users can enter the directory $directory: chmod 700 $directory"
            parentMode and GROUP_AND_OTHERS_WRITE != 0 && parentMode and STICKY == 0 ||
                parentOwner != 0 && parentOwner != ownUid() ->
                "other users can write to ${directory.parent} and so rename $directory"
            else -> return
        }
    throw failure(ErrorCode.CONFIG, "$wrong; or choose another path")
}

private fun readToken(path: Path): String {
    val text =
        try {
            if (posix) {
                if (!Files.isRegularFile(path, NOFOLLOW_LINKS) && Files.exists(path, NOFOLLOW_LINKS)) {
                    throw failure(ErrorCode.ACCESS_DENIED, "the token file $path is not a regular file")
                }
                if (attribute(path, "uid") != ownUid() || attribute(path, "mode") and GROUP_AND_OTHERS != 0) {
                    throw failure(
                        ErrorCode.ACCESS_DENIED,
                        "the token file $path must belong to you and to nobody else: chmod 600 $path",
                    )
                }
            }
            Files.newInputStream(path, NOFOLLOW_LINKS).use { input ->
                val bytes = ByteArray(2 * TOKEN_CHARACTERS)
                var length = 0
                while (length < bytes.size) {
                    val more = input.read(bytes, length, bytes.size - length)
                    if (more < 0) break
                    length += more
                }
                String(bytes, 0, length, Charsets.ISO_8859_1).trim()
            }
        } catch (absent: NoSuchFileException) {
            throw failure(ErrorCode.ACCESS_DENIED, "there is no token file $path; is the sidecar running?", absent)
        } catch (unreadable: IOException) {
            throw failure(ErrorCode.ACCESS_DENIED, "the token file $path cannot be opened", unreadable)
        }
    if (text.length != TOKEN_CHARACTERS || text.any { it !in "0123456789abcdefABCDEF" }) {
        throw failure(
            ErrorCode.ACCESS_DENIED,
            "the token file $path does not hold $TOKEN_CHARACTERS hexadecimal characters",
        )
    }
    return text
}
