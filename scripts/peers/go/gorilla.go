// Echo server on gorilla/websocket, on one thread: the loop of its example, and a limit of 16 MiB.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"

	"github.com/gorilla/websocket"
)

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

func echo(answer http.ResponseWriter, request *http.Request) {
	connection, err := upgrader.Upgrade(answer, request, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	connection.SetReadLimit(16 << 20)
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil || connection.WriteMessage(kind, message) != nil {
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
