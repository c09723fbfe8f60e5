// Ocimem serves cuelabs' in-memory OCI registry for the tests.
//
// It prints the address it listens on as its only line on stdout, and serves until it is killed.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	verbose := flag.Bool("v", false, "log each request to stderr")
	flag.Parse()
	registry := ociserver.New(ocimem.New(), nil)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if *verbose {
			log.Printf("%s %s", r.Method, r.URL)
		}
		registry.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}
