"""Echo server on Python's websockets: a limit of 16 MiB; compression only with `deflate` behind it."""

import asyncio
import logging
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0").split(":")
    # The battery's refused handshakes are not worth a traceback each.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    deflate = "deflate" if "deflate" in sys.argv[2:] else None
    async with serve(echo, host, int(port), max_size=16 << 20, compression=deflate) as server:
        bound = server.sockets[0].getsockname()[1]
        print(f"listening on ws://{host}:{bound}/", flush=True)
        await server.serve_forever()


asyncio.run(main())
