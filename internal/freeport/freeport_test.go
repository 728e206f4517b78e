package freeport

import (
	"fmt"
	"net"
	"testing"
)

// A port given out is free, is given out once, and stays free whatever ports the system chooses for others.
func TestLoopback(t *testing.T) {
	ports := map[int]bool{}
	for range 50 {
		port, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		if ports[port] {
			t.Errorf("%d was given out twice", port)
		}
		ports[port] = true
	}
	for range 200 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if ports[l.Addr().(*net.TCPAddr).Port] {
			t.Errorf("the system chose %v", l.Addr())
		}
	}
	for port := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Error(err)
			continue
		}
		l.Close()
	}
}
