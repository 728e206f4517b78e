package admin

import (
	"bytes"
	"container/list"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// maxConnections is how many connections a Server has at once: for some monitors and a person or two.
const maxConnections = 64

// crowd bounds the connections of a Server. Where there is one too many, that which has been without a request for the longest is
// closed, so that nobody keeps others out by doing nothing, or by sending half a request again and again.
type crowd struct {
	most int

	mu      sync.Mutex
	waiting *list.List                 // of net.Conn: no whole request has come, longest first
	all     map[net.Conn]*list.Element // nil: a request is being served
}

func newCrowd(most int) *crowd {
	return &crowd{most: most, waiting: list.New(), all: map[net.Conn]*list.Element{}}
}

// changed is for http.Server.ConnState.
func (c *crowd) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.all[conn] = c.waiting.PushBack(conn)
		if len(c.all) > c.most {
			c.close(c.waiting.Front().Value.(net.Conn)) // at least that which has just come
		}
	case http.StateClosed, http.StateHijacked:
		c.forget(conn)
	}
}

func (c *crowd) close(conn net.Conn) {
	c.forget(conn)
	conn.Close()
}

func (c *crowd) forget(conn net.Conn) {
	if e := c.all[conn]; e != nil {
		c.waiting.Remove(e)
	}
	delete(c.all, conn)
}

// connKey is where a request's context has its connection.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// counted has next serve requests as ones that keep their connection from being closed.
func (c *crowd) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{}).(net.Conn)
		c.serving(conn)
		defer c.served(conn)
		next.ServeHTTP(w, r)
	})
}

// whole has next serve requests of which all has come: half a body, sent slowly, is no more a request that is being served than half a header.
func whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 { // -1: as much as comes
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
			if err != nil {
				http.Error(w, "What comes with the request: "+err.Error()+".", http.StatusRequestEntityTooLarge)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})
}

func (c *crowd) serving(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.all[conn]; e != nil { // else it was closed just now
		c.waiting.Remove(e)
		c.all[conn] = nil
	}
}

func (c *crowd) served(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.all[conn]; ok {
		c.all[conn] = c.waiting.PushBack(conn)
	}
}
