#!/usr/bin/env python3
"""Stands between a program that speaks no TLS and one that does.

usage: tls-relay.py out PORT             plain connections go on to 127.0.0.1:PORT over TLS, whatever certificate is shown
       tls-relay.py in PORT CERT KEY     TLS connections go on to 127.0.0.1:PORT in plain, CERT and KEY being files in PEM

Listens on a free port of 127.0.0.1, which is the one line it prints. The end of one direction is passed on as an end, a reset
as a reset. Of what passes one thing is changed: a Host field with the relay's port gets the port behind it, since some servers
look.
"""
import asyncio
import ssl
import sys

PIECE = 65536


async def pass_on(reader, writer, host=(b'', b'')):
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece.replace(*host, 1) if host[0] else piece)
            host = (b'', b'')
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            # TLS has no half-closed connections in this library: close_notify, and what still comes is dropped.
            writer.close()
    except (ConnectionError, ssl.SSLError, OSError):
        writer.transport.abort()


def relay(port, context):
    async def connected(reader, writer):
        try:
            there = await asyncio.open_connection('127.0.0.1', port, ssl=context, server_hostname='localhost' if context else None)
        except OSError:
            writer.transport.abort()
            return
        here = writer.get_extra_info('sockname')[1]
        host = tuple(f'\r\nHost: 127.0.0.1:{number}\r\n'.encode() for number in (here, port))
        await asyncio.gather(pass_on(reader, there[1], host), pass_on(there[0], writer))
        for end in (writer, there[1]):
            end.close()

    return connected


def contexts(direction, files):
    """That of the listening side, and that of the connecting one."""
    if direction == 'in':
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        return context, None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return None, context


async def main():
    match sys.argv[1:]:
        case ['out', port]:
            listening, connecting = contexts('out', [])
        case ['in', port, certificate, key]:
            listening, connecting = contexts('in', [certificate, key])
        case _:
            sys.exit(__doc__)
    server = await asyncio.start_server(relay(int(port), connecting), '127.0.0.1', 0, ssl=listening, limit=4 * PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == '__main__':
    asyncio.run(main())
