"""Echo server on picows, with uvloop: the loop of its example, and a limit of 16 MiB."""

import asyncio
import logging
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame):
        if frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin, frame.rsv1)


async def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0").split(":")
    logging.getLogger("picows").setLevel(logging.CRITICAL)
    server = await ws_create_server(lambda _: Echo(), host, int(port), max_frame_size=16 << 20)
    bound = server.sockets[0].getsockname()[1]
    print(f"listening on ws://{host}:{bound}/", flush=True)
    await server.serve_forever()


uvloop.run(main())
