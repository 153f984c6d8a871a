import Foundation

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Where a sidecar is, and the file with the token that it asks for.
///
/// What is not given comes from the environment variables `PHANTOM_SIDECAR_ADDRESS` and `PHANTOM_SIDECAR_TOKEN_FILE`;
/// what is not there either is in `$XDG_RUNTIME_DIR/phantom`, or else in `phantom-UID` in the temporary folder.
public struct SidecarLocation: Sendable, Hashable {
    /// `unix:PATH` or `127.0.0.1:PORT`.
    public var address: String
    /// The path of the token file.
    public var tokenFile: String

    /// Where it is.
    public init(
        address: String? = nil, tokenFile: String? = nil,
        environment: [String: String] = ProcessInfo.processInfo.environment
    ) {
        func variable(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
        let folder = Self.runtimeFolder(environment)
        self.address = address ?? variable("PHANTOM_SIDECAR_ADDRESS") ?? "unix:\(folder)/sidecar.sock"
        if let given = tokenFile ?? variable("PHANTOM_SIDECAR_TOKEN_FILE") {
            self.tokenFile = given
        } else if let path = Self.socketPath(self.address) {
            self.tokenFile = path + ".token"
        } else {
            self.tokenFile = "\(folder)/tcp-\(self.address.split(separator: ":").last ?? "").token"
        }
    }

    private static func runtimeFolder(_ environment: [String: String]) -> String {
        if let base = environment["XDG_RUNTIME_DIR"], base.hasPrefix("/") { return "\(base)/phantom" }
        let temporary = environment["TMPDIR"].flatMap { $0.hasPrefix("/") ? $0 : nil } ?? "/tmp"
        return "\(temporary)/phantom-\(getuid())"
    }

    private static func socketPath(_ address: String) -> String? {
        address.hasPrefix("unix:") ? String(address.dropFirst(5)) : nil
    }

    package var hasTokenFile: Bool { Self.kind(of: tokenFile) != nil }

    /// Reads the token, once it is sure that it is this user's sidecar and nobody else's.
    ///
    /// `network` if no sidecar is there, `config` if others could have put one there, `accessDenied` if the token file
    /// is missing, open to others or no token file. Blocks for a moment.
    public func token() throws(PhantomError) -> String {
        if let path = Self.socketPath(address) {
            guard Self.kind(of: path) != nil else {
                throw PhantomError(.network, "there is no sidecar at \(path); start one with `phantom sidecar`")
            }
            try Self.checkPrivate(folder: Self.parent(of: path))
        } else {
            let host = address.lastIndex(of: ":").map { String(address[..<$0]) } ?? ""
            guard ["127.0.0.1", "localhost", "[::1]"].contains(host) else {
                throw PhantomError(
                    .config, "\(address) is not on this machine; use unix:PATH or 127.0.0.1:PORT")
            }
        }
        return try Self.read(tokenFile: tokenFile)
    }

    private static func parent(of path: String) -> String {
        let absolute = path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
        let end = absolute.lastIndex(of: "/") ?? absolute.startIndex
        return end == absolute.startIndex ? "/" : String(absolute[..<end])
    }

    private static func kind(of path: String) -> stat? {
        var found = stat()
        return lstat(path, &found) == 0 ? found : nil
    }

    /// The folder is a real one of this user alone, in one that nobody else can change.
    private static func checkPrivate(folder: String) throws(PhantomError) {
        guard let found = kind(of: folder), let outer = kind(of: parent(of: folder)) else {
            throw PhantomError(.config, "\(folder): \(String(cString: strerror(errno)))")
        }
        guard found.st_mode & S_IFMT == S_IFDIR else {
            throw PhantomError(.config, "\(folder) is no folder (links are not followed); choose another path")
        }
        guard found.st_uid == getuid() else {
            throw PhantomError(.config, "the folder \(folder) belongs to another user; choose a path in one of your own")
        }
        guard found.st_mode & 0o077 == 0 else {
            throw PhantomError(
                .config, "other users can enter the folder \(folder): chmod 700 \(folder), or choose another path")
        }
        let othersWrite = outer.st_mode & 0o022 != 0 && outer.st_mode & S_ISVTX == 0
        guard !othersWrite, outer.st_uid == 0 || outer.st_uid == getuid() else {
            throw PhantomError(.config, "other users can write to the folder of \(folder) and so rename it")
        }
    }

    private static func read(tokenFile: String) throws(PhantomError) -> String {
        let file = open(tokenFile, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
        guard file >= 0 else {
            let reason = errno
            throw PhantomError(
                .accessDenied,
                reason == ENOENT
                    ? "there is no token file \(tokenFile); is the sidecar running?"
                    : "the token file \(tokenFile) cannot be opened: \(String(cString: strerror(reason)))")
        }
        defer { close(file) }
        var found = stat()
        guard fstat(file, &found) == 0, found.st_mode & S_IFMT == S_IFREG else {
            throw PhantomError(.accessDenied, "the token file \(tokenFile) is not a regular file")
        }
        guard found.st_uid == getuid(), found.st_mode & 0o077 == 0 else {
            throw PhantomError(
                .accessDenied, "the token file \(tokenFile) must belong to you and to nobody else: chmod 600 \(tokenFile)")
        }
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = read_(file, &bytes)
        let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
            .trimmingCharacters(in: .whitespacesAndNewlines)
        guard text.utf8.count == 64, text.utf8.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 || UInt8(ascii: "a")...UInt8(ascii: "f") ~= $0 | 0x20 })
        else {
            throw PhantomError(.accessDenied, "the token file \(tokenFile) does not hold 64 hexadecimal characters")
        }
        return text
    }
}

private func read_(_ file: Int32, _ bytes: inout [UInt8]) -> Int { read(file, &bytes, bytes.count) }
