// Ggcr serves go-containerregistry's in-memory registry for the tests.
//
// It prints the address it listens on as its only line on stdout, and serves until it is killed.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	referrers := flag.Bool("referrers", true, "offer the referrers API")
	verbose := flag.Bool("v", false, "log each request to stderr")
	flag.Parse()
	var out io.Writer = io.Discard
	if *verbose {
		out = os.Stderr
	}
	handler := registry.New(
		registry.WithReferrersSupport(*referrers),
		registry.Logger(log.New(out, "", log.LstdFlags|log.Lmicroseconds)),
	)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}
