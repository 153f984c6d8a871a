import Foundation
import Phantom

/// Which sidecar a client takes.
public enum SidecarSource: Sendable {
    /// One that runs already.
    case running(SidecarLocation = SidecarLocation())
    /// One of the client's own: it is started, and stopped when the client is closed.
    ///
    /// `command` is found on `PATH`; options of `phantom sidecar` can follow. `socket` is the path of its unix socket,
    /// nil for one in a private folder that is removed in the end.
    case launched(command: [String] = ["phantom"], socket: String? = nil)
}

extension PhantomClient {
    /// Finds a sidecar, or starts one, and opens a client.
    ///
    /// `network` if none is there or it did not start, `accessDenied` or `config` if its files are not this user's alone
    /// or the token is wrong, `contractVersion` if it speaks another version of the interface.
    /// - Parameters:
    ///   - source: Which sidecar.
    ///   - waiting: Wait until there is a sidecar and it can serve; `timeout`, which says what is missing, if that is
    ///     not so in time. One that is started is always waited for.
    ///   - timeout: How long it may take in all.
    public static func open(
        _ source: SidecarSource = .running(), waiting: Bool = false, timeout: WireDuration = .seconds(20)
    ) async throws(PhantomError) -> PhantomClient {
        let deadline = Deadline(timeout)
        switch source {
        case .running(let location):
            return waiting ? try await whenReady(location, deadline) : try await connected(location, deadline) {}
        case .launched(let command, let socket):
            let sidecar = try await SidecarProcess.start(command: command, socket: socket, timeout: timeout)
            do { return try await connected(sidecar.location, deadline) { await sidecar.stop() } } catch {
                await sidecar.stop()
                throw error
            }
        }
    }

    private static func connected(
        _ location: SidecarLocation, _ deadline: Deadline, whenClosed: @escaping @Sendable () async -> Void
    ) async throws(PhantomError) -> PhantomClient {
        let transport = try GRPCCoreTransport(address: location.address, token: location.token())
        return try await open(over: transport, timeout: deadline.left, whenClosed: whenClosed)
    }

    private static func whenReady(
        _ location: SidecarLocation, _ deadline: Deadline
    ) async throws(PhantomError) -> PhantomClient {
        var missing = "the sidecar at \(location.address) did not answer"
        while !deadline.isPast {
            do throws(PhantomError) {
                let client = try await connected(location, deadline) {}
                do throws(PhantomError) { try await client.waitReady(timeout: deadline.left ?? .seconds(20)) } catch {
                    await client.close()
                    throw error
                }
                return client
            } catch {
                // What waiting does not cure is said at once.
                let mayCome = error.code == .network || error.code == .accessDenied && !location.hasTokenFile
                guard mayCome, !error.isCancelled else { throw error }
                missing = error.message
            }
            do { try await Task.sleep(nanoseconds: 50_000_000) } catch { throw .cancelled }
        }
        throw PhantomError(.timeout, "the sidecar was not ready in time: \(missing)")
    }
}

/// Opens a client, runs the block with it and closes it, whatever becomes of the block.
public func withPhantom<Output: Sendable>(
    _ source: SidecarSource = .running(), waiting: Bool = false, timeout: WireDuration = .seconds(20),
    isolation: isolated (any Actor)? = #isolation, _ body: (PhantomClient) async throws -> Output
) async throws -> Output {
    let client = try await PhantomClient.open(source, waiting: waiting, timeout: timeout)
    do {
        let result = try await body(client)
        await client.close()
        return result
    } catch {
        await client.close()
        throw error
    }
}

#if os(Linux) || os(macOS)
    /// A sidecar that this program started. It is stopped with SIGTERM, and killed if it does not stop.
    public final class SidecarProcess: Sendable {
        /// The line that `phantom sidecar --print-ready` prints.
        private struct Ready: Decodable {
            let address: String
            let tokenFile: String

            enum CodingKeys: String, CodingKey {
                case address
                case tokenFile = "token_file"
            }
        }

        private struct Running: @unchecked Sendable {
            let process: Process
            let folder: String?
        }

        private enum Event: Sendable {
            case line([UInt8])
            case ended
        }

        /// Where it is.
        public let location: SidecarLocation
        /// Its process id.
        public let processID: Int32
        private let running: Running
        private let hasEnded: Monitor<Bool>

        private init(_ location: SidecarLocation, _ running: Running, _ hasEnded: Monitor<Bool>) {
            self.location = location
            self.running = running
            self.hasEnded = hasEnded
            processID = running.process.processIdentifier
        }

        deinit { Self.remove(running) }

        /// Starts `COMMAND sidecar --print-ready` and returns when it serves.
        ///
        /// `network` if it cannot be started or ends before, `timeout` if it is not ready in time. Its log goes to
        /// standard error.
        public static func start(
            command: [String] = ["phantom"], socket: String? = nil, timeout: WireDuration = .seconds(20)
        ) async throws(PhantomError) -> SidecarProcess {
            let deadline = Deadline(timeout)
            var folder: String?
            let path: String
            if let socket {
                path = socket
            } else {
                path = try privateFolder(&folder) + "/sidecar.sock"
            }
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments =
                (command.count == 1 ? command + ["sidecar", "--log-filter", "error"] : command)
                + ["--socket", path, "--print-ready"]
            let output = Pipe()
            process.standardOutput = output
            process.standardInput = FileHandle.nullDevice
            let running = Running(process: process, folder: folder)
            let first = Monitor<Event?>(nil)
            let hasEnded = Monitor(false)
            process.terminationHandler = { _ in
                hasEnded.change { $0 = true }
                first.change { $0 = $0 ?? .ended }
            }
            let buffer = Monitor<[UInt8]>([])
            output.fileHandleForReading.readabilityHandler = { handle in
                let data = [UInt8](handle.availableData)
                if data.isEmpty { return handle.readabilityHandler = nil }
                let line: [UInt8]? = buffer.change { all in
                    all += data
                    return all.firstIndex(of: 10).map { Array(all[..<$0]) }
                }
                guard let line else { return }
                first.change { $0 = $0 ?? .line(line) }
                handle.readabilityHandler = nil
            }
            do { try withSignals { try process.run() } } catch {
                remove(running)
                throw PhantomError(.network, "the sidecar cannot be started: \(error.localizedDescription)")
            }
            let event: Event
            do { event = try await first.wait(deadline, "the sidecar was not ready") { $0 } } catch {
                await stop(running, hasEnded)
                throw error
            }
            guard case .line(let line) = event,
                let ready = try? JSONDecoder().decode(Ready.self, from: Data(line))
            else {
                await stop(running, hasEnded)
                throw PhantomError(
                    .network, "the sidecar ended before it was ready, or said something else; its standard error says why")
            }
            let location = SidecarLocation(address: ready.address, tokenFile: ready.tokenFile)
            return SidecarProcess(location, running, hasEnded)
        }

        /// Whether it still runs.
        public var isRunning: Bool { hasEnded.change { !$0 } }

        /// Stops it and waits until it has ended. Idempotent.
        public func stop() async { await Self.stop(running, hasEnded) }

        /// Ends it at once, without any goodbye, and waits until it has ended.
        public func kill() async {
            if isRunning { Foundation.kill(processID, SIGKILL) }
            await Self.stop(running, hasEnded)
        }

        private static func stop(_ running: Running, _ hasEnded: Monitor<Bool>) async {
            // Also for a task that was cancelled.
            await Task {
                if hasEnded.change({ !$0 }) { running.process.terminate() }
                do { _ = try await hasEnded.wait(Deadline(.seconds(10))) { $0 ? true : nil } } catch {
                    Foundation.kill(running.process.processIdentifier, SIGKILL)
                    _ = try? await hasEnded.wait(Deadline(.seconds(5))) { $0 ? true : nil }
                }
                remove(running)
            }.value
        }

        private static func remove(_ running: Running) {
            if let folder = running.folder { try? FileManager.default.removeItem(atPath: folder) }
        }

        /// The threads that tasks run on take no signals, and a child inherits that: SIGTERM would not stop it.
        private static func withSignals<Output>(_ body: () throws -> Output) rethrows -> Output {
            var none = sigset_t()
            var before = sigset_t()
            sigemptyset(&none)
            pthread_sigmask(SIG_SETMASK, &none, &before)
            defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
            return try body()
        }

        /// A folder of this user alone, with a short path: those of sockets are limited.
        private static func privateFolder(_ folder: inout String?) throws(PhantomError) -> String {
            var template = Array("/tmp/phantom-XXXXXX".utf8CString)
            guard mkdtemp(&template) != nil else {
                throw PhantomError(.config, "no private folder can be made in /tmp")
            }
            let made = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            folder = made
            return made
        }
    }
#endif
