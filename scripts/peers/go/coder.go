// Echo server on coder/websocket (nhooyr.io/websocket in Debian), on one thread: whole messages, a
// limit of 16 MiB, no compression.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"

	"nhooyr.io/websocket"
)

func echo(answer http.ResponseWriter, request *http.Request) {
	options := websocket.AcceptOptions{
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	}
	connection, err := websocket.Accept(answer, request, &options)
	if err != nil {
		return
	}
	defer connection.Close(websocket.StatusInternalError, "")
	connection.SetReadLimit(16 << 20)
	for {
		kind, message, err := connection.Read(request.Context())
		if err != nil || connection.Write(request.Context(), kind, message) != nil {
			return
		}
	}
}

func main() {
	runtime.GOMAXPROCS(1)
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("listening on ws://%s/\n", listener.Addr())
	http.Serve(listener, http.HandlerFunc(echo))
}
