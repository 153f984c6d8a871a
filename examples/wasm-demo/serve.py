"""The demo's two servers: ``phantom serve`` for its sessions, and one for the page and the built package.

``python examples/wasm-demo/serve.py`` (``make wasm-demo``) builds the package, starts both, and prints the page's URL.
With ``--shoot FOLDER`` it takes screenshots instead (``make wasm-demo-shot``), with ``--drive`` it only tries the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DIST = ROOT / "bindings" / "wasm" / "dist"


class Page(SimpleHTTPRequestHandler):
    """The files of the demo, ``/dist/`` of the package, and ``/config.js`` with the pinned URL."""

    url = ""
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".mjs": "text/javascript"}

    def translate_path(self, path: str) -> str:
        """The file of a path: of the package below ``/dist/``, else of the demo."""
        inside = path.startswith("/dist/")
        self.directory = str(DIST if inside else HERE)
        return super().translate_path(path.removeprefix("/dist") if inside else path)

    def do_GET(self) -> None:
        """A file, or the one constant."""
        if self.path != "/config.js":
            super().do_GET()
            return
        body = f"export const URL_WITH_PIN = {json.dumps(self.url)};\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """With the content security policy of docs/operations/wasm.md."""
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
            "connect-src 'self' ws://127.0.0.1:*",
        )
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Says nothing."""


def main() -> int:
    """Builds, serves until it is interrupted; the exit code."""
    built = subprocess.run([sys.executable, "-m", "bindings.wasm.build", "build"], cwd=ROOT)
    if built.returncode or not DIST.exists():
        return built.returncode
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as web, tempfile.TemporaryDirectory() as folder:
        origin = f"http://127.0.0.1:{web.server_port}"
        command = [sys.executable, "-m", "phantom", "serve", "--json", "--bind", "ws://127.0.0.1:0", "--origin", origin]
        command += ["--signing-key-file", f"{folder}/signing.key", "--log-filter", "error"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                Page.url = json.loads(server.stdout.readline())["urls"][0]
                if len(sys.argv) > 1:
                    threading.Thread(target=web.serve_forever, daemon=True).start()
                    drive = ["node", str(HERE / "drive.mjs"), origin, *sys.argv[2:]]
                    return subprocess.run(drive, cwd=ROOT).returncode
                print(f"\nsessions: {Page.url}\npage:     {origin}/\n\nCtrl-C ends both.", flush=True)
                web.serve_forever()
            except KeyboardInterrupt:
                print()
            finally:
                server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
