"""One stream of aioquic or qh3, which have the same API, driven as their documentation does."""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
from typing import Any

from benchmarks.harness import Meter, MiB, Reported, Sample
from benchmarks.peers.sockets import certificate

_WINDOW = 64 * MiB
_PATIENCE = 60.0  # s


def _configuration(library: str, *, client: bool) -> Any:
    module = importlib.import_module(f"{library}.quic.configuration")
    found = module.QuicConfiguration(
        is_client=client, alpn_protocols=["bench"], max_data=_WINDOW, max_stream_data=_WINDOW
    )
    if client:
        found.verify_mode = ssl.CERT_NONE
    else:
        found.load_cert_chain(*certificate())
    return found


def server(reported: Reported, *, library: str, **_: Any) -> Sample:
    """Receives one stream and says so."""
    api = importlib.import_module(f"{library}.asyncio")
    arrived = importlib.import_module(f"{library}.quic.events").StreamDataReceived

    async def main() -> Sample:
        done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()

        class Receiver(api.QuicConnectionProtocol):  # type: ignore[misc,name-defined]
            meter: Meter | None = None

            def quic_event_received(self, event: Any) -> None:
                if not isinstance(event, arrived):
                    return
                if self.meter is None:
                    self.meter = Meter()
                self.meter.payload += len(event.data)
                if event.end_stream and not done.done():
                    done.set_result(self.meter.stop())
                    self._quic.send_stream_data(event.stream_id, b"done", True)
                    self.transmit()

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        served = await api.serve(
            "127.0.0.1", port, configuration=_configuration(library, client=False), create_protocol=Receiver
        )
        reported(str(port))
        sample = await asyncio.wait_for(done, _PATIENCE)
        await asyncio.sleep(0.2)  # the answer has left
        served.close()
        return sample

    return asyncio.run(main())


def client(address: str, *, library: str, size: int, amount: int, **_: Any) -> Sample:
    """Sends ``amount`` bytes in writes of ``size`` and waits for the answer."""
    api = importlib.import_module(f"{library}.asyncio")

    async def main() -> Sample:
        configuration = _configuration(library, client=True)
        async with api.connect("127.0.0.1", int(address), configuration=configuration) as connection:
            reader, writer = await connection.create_stream()
            payload, meter = bytes(size), Meter()
            for _ in range(amount // size):
                writer.write(payload)
                meter.payload += size
                await asyncio.sleep(0)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), _PATIENCE)
            return meter.stop()

    return asyncio.run(main())
