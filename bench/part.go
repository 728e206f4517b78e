package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"odmr/bench/letters"
	"odmr/bench/traffic"
)

// PartSpec is what a part of the harness is to do in its own process. It comes as one line of JSON
// on standard input; the process lives until that is closed.
type PartSpec struct {
	Kind     string        // sink, provider, loopback, store-append, store-drain
	Messages int           // provider: in each session
	Sizes    letters.Sizes `json:"-"`
	SizeText string        // Sizes in JSON
	TLS      bool          // loopback: in TLS
	Dir      string        // store-*
	Load     StoreLoad     // store-*
}

// partAnswer is the line of JSON that a part says once it is ready, or done.
type partAnswer struct {
	Addr  string
	Rate  float64
	Error string
}

// ServePart is the process of a part.
func ServePart(in io.Reader, out io.Writer, d Deps) error {
	reader := bufio.NewReader(in)
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return err
	}
	var spec PartSpec
	if err := json.Unmarshal(line, &spec); err != nil {
		return err
	}
	if spec.SizeText != "" {
		if spec.Sizes, err = letters.ParseSizes(spec.SizeText); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	answer := func(a partAnswer, err error) error {
		if err != nil {
			a.Error = err.Error()
		}
		return json.NewEncoder(out).Encode(a)
	}
	switch spec.Kind {
	case "store-append":
		rate, err := d.StoreAppend(spec.Dir, spec.Load)
		return answer(partAnswer{Rate: rate}, err)
	case "store-drain":
		rate, err := d.StoreDrain(spec.Dir, spec.Load)
		return answer(partAnswer{Rate: rate}, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return answer(partAnswer{}, err)
	}
	served := make(chan error, 1)
	go func() { served <- serveKind(ctx, l, spec) }()
	if err := answer(partAnswer{Addr: l.Addr().String()}, nil); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, reader) // until the harness lets go
	cancel()
	return <-served
}

func serveKind(ctx context.Context, l net.Listener, spec PartSpec) error {
	switch spec.Kind {
	case "sink":
		return traffic.Sink(ctx, l, new(traffic.Counter))
	case "provider":
		return traffic.Provider(ctx, l, traffic.Plan{Messages: spec.Messages, Sizes: spec.Sizes, Stock: letters.NewStock()})
	case "loopback":
		if !spec.TLS {
			return serveLoopback(ctx, l)
		}
		config, err := loopbackTLS()
		if err != nil {
			return err
		}
		return serveLoopback(ctx, tls.NewListener(l, config))
	}
	return fmt.Errorf("no part of kind %q", spec.Kind)
}

// part is a running part.
type part struct {
	addr string
	rate float64
	in   io.WriteCloser
	wait func() error
}

// startPart starts a part, in a process of its own where Deps knows how.
func (e *Env) startPart(ctx context.Context, spec PartSpec) (*part, error) {
	spec.SizeText = spec.Sizes.String()
	line, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	p := &part{}
	var out io.Reader
	if e.Part == nil {
		inReader, inWriter := io.Pipe()
		outReader, outWriter := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := ServePart(inReader, outWriter, e.Deps)
			_ = outWriter.CloseWithError(errors.Join(err, io.EOF))
			done <- err
		}()
		p.in, out, p.wait = inWriter, outReader, func() error { return <-done }
	} else {
		cmd := exec.CommandContext(ctx, e.Part[0], e.Part[1:]...)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if p.in, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if out, err = cmd.StdoutPipe(); err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p.wait = cmd.Wait
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(err, p.close())
	}
	var a partAnswer
	if err := json.NewDecoder(out).Decode(&a); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", spec.Kind, err), p.close())
	}
	if a.Error != "" {
		return nil, errors.Join(fmt.Errorf("%s: %s", spec.Kind, a.Error), p.close())
	}
	p.addr, p.rate = a.Addr, a.Rate
	return p, nil
}

// close ends the part and waits for it.
func (p *part) close() error {
	err := p.in.Close()
	return errors.Join(err, p.wait())
}

// Loopback: the harness says in 8 octets how large the pieces are and in 1 who writes them; then whoever it
// is writes until the harness closes the connection.
const (
	partWrites = 1
	partReads  = 2
)

func serveLoopback(ctx context.Context, l net.Listener) error {
	return traffic.Each(ctx, l, func(conn net.Conn) {
		defer discard(conn)
		done := context.AfterFunc(ctx, func() { discard(conn) })
		defer done()
		var order [9]byte
		if _, err := io.ReadFull(conn, order[:]); err != nil {
			return
		}
		if order[8] == partWrites {
			_ = pump(conn, int(binary.BigEndian.Uint64(order[:8])))
		} else {
			_, _ = drop(conn, nil, false)
		}
	})
}

// pump writes pieces until the connection ends.
func pump(conn net.Conn, piece int) error {
	b := make([]byte, piece)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	for {
		if _, err := conn.Write(b); err != nil {
			return err
		}
	}
}

// drop reads until the connection ends; look hashes what comes, as a customer does.
func drop(conn net.Conn, count *atomic.Int64, look bool) (uint32, error) {
	b := make([]byte, 128<<10)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	for {
		n, err := conn.Read(b)
		if look {
			sum = crc32.Update(sum, table, b[:n])
		}
		if count != nil {
			count.Add(int64(n))
		}
		if err != nil {
			return sum, err
		}
	}
}

// loopback is one measurement of raw loopback.
type loopback struct {
	connections int
	piece       int  // octets of each write
	toPart      bool // the harness writes; otherwise the part does
	look        bool // the harness hashes what it reads
	tls         bool // in TLS
}

// loopbackFor is how long raw loopback is measured.
const loopbackFor = time.Second

// loopbackRate is octets per second over raw loopback connections between two processes.
func (e *Env) loopbackRate(ctx context.Context, l loopback) (rate float64, err error) {
	p, err := e.startPart(ctx, PartSpec{Kind: "loopback", TLS: l.tls})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var count atomic.Int64
	var all sync.WaitGroup
	var conns []net.Conn
	for range l.connections {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			return 0, err
		}
		if l.tls {
			conn = tls.Client(conn, anyServer())
		}
		defer discard(conn)
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		if c, ok := conn.(*tls.Conn); ok {
			if err := c.Handshake(); err != nil {
				return 0, err
			}
		}
	}
	began := time.Now()
	for _, conn := range conns {
		var order [9]byte
		binary.BigEndian.PutUint64(order[:8], uint64(l.piece))
		order[8] = partWrites
		if l.toPart {
			order[8] = partReads
		}
		if _, err := conn.Write(order[:]); err != nil {
			return 0, err
		}
		all.Go(func() {
			if !l.toPart {
				_, _ = drop(conn, &count, l.look)
				return
			}
			_ = pump(countedConn{conn, &count}, l.piece)
		})
	}
	time.Sleep(loopbackFor)
	octets, took := count.Load(), time.Since(began)
	for _, conn := range conns {
		discard(conn)
	}
	all.Wait()
	return float64(octets) / took.Seconds(), nil
}

// countedConn counts what was written.
type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}
