// Echo server on uWebSockets, which no package registry has; README.md says how it is built.
//
//     uws-echo HOST:PORT [shared|takeover]
//
// `shared` compresses without context takeover, with one compressor for all connections;
// `takeover` with a compressor for each connection.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "App.h"

static const unsigned MAX_MESSAGE = 16 << 20;

struct Nothing {};

static uWS::CompressOptions compression(const std::string &variant) {
    if (variant == "shared") {
        return uWS::CompressOptions(uWS::SHARED_COMPRESSOR | uWS::SHARED_DECOMPRESSOR);
    }
    if (variant == "takeover") {
        return uWS::CompressOptions(uWS::DEDICATED_COMPRESSOR | uWS::DEDICATED_DECOMPRESSOR);
    }
    return uWS::DISABLED;
}

int main(int argc, char **argv) {
    std::string address = argc > 1 ? argv[1] : "127.0.0.1:9001";
    std::string variant = argc > 2 ? argv[2] : "";
    size_t colon = address.rfind(':');
    std::string host = address.substr(0, colon);
    int port = std::atoi(address.substr(colon + 1).c_str());
    uWS::CompressOptions options = compression(variant);
    bool compress = options != uWS::DISABLED;
    if (!variant.empty() && !compress) {
        std::fprintf(stderr, "uws-echo: no variant %s: shared or takeover\n", variant.c_str());
        return 2;
    }

    uWS::App app;
    app.ws<Nothing>("/*", {
        .compression = options,
        .maxPayloadLength = MAX_MESSAGE,
        .idleTimeout = 0,
        .maxBackpressure = 4 * MAX_MESSAGE,
        .sendPingsAutomatically = false,
        .message = [compress](auto *ws, std::string_view message, uWS::OpCode kind) {
            ws->send(message, kind, compress);
        },
    });
    app.listen(host, port, [&](auto *socket) {
        if (!socket) {
            std::fprintf(stderr, "uws-echo: cannot listen on %s\n", address.c_str());
            std::exit(1);
        }
        std::printf("listening on ws://%s\n", address.c_str());
        std::fflush(stdout);
    });
    app.run();
}
