package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"

	"odmr/internal/mail"
	"odmr/queue"
)

// ErrNoServer says that no server answers at the control socket: the store can be opened instead.
var ErrNoServer = errors.New("admin: no server is running on this data directory")

// errBroken says that the server went away in the middle of an answer.
var errBroken = errors.New("admin: the server's answer broke off")

// segmentSize is how many octets of a body Client hands on at a time.
const segmentSize = 64 << 10

// Client handles the queue of a running server through its control socket. It is a queue.Admin,
// and every method may block for as long as the server does. It is safe for concurrent use.
type Client struct {
	http http.Client
}

var _ queue.Admin = (*Client)(nil)

// Dial connects to the server with that data directory, or returns ErrNoServer. Close the
// Client when done.
func Dial(ctx context.Context, data string) (*Client, error) {
	path := SocketPath(data)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		return nil, fmt.Errorf("%w (%w)", ErrNoServer, err)
	}
	conn.Close()
	return NewClient(&http.Transport{DialContext: dial}), nil
}

// NewClient handles the queue of the server that requests reach by way of rt.
func NewClient(rt http.RoundTripper) *Client { return &Client{http: http.Client{Transport: rt}} }

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request sends a request; the caller closes the answer's body. A refusal comes as the error that it names.
func (c *Client) request(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	return c.requestWith(ctx, method, url.URL{Path: path, RawQuery: query.Encode()}, nil)
}

// requestWith is request with a body.
func (c *Client) requestWith(ctx context.Context, method string, u url.URL, body io.Reader) (*http.Response, error) {
	u.Scheme, u.Host = "http", "control"
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var l line
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil || l.Error == nil {
		return nil, fmt.Errorf("admin: the server answered %s", resp.Status)
	}
	return nil, l.Error.err()
}

// stream sends a request and calls fn for every line of the answer but the last, until fn returns false.
func (c *Client) stream(ctx context.Context, method, path string, query url.Values, fn func(*line) bool) error {
	resp, err := c.request(ctx, method, path, query)
	if err != nil {
		return err
	}
	return lines(ctx, resp, fn)
}

// lines calls fn for every line of the answer but the last, until fn returns false, and closes it.
func lines(ctx context.Context, resp *http.Response, fn func(*line) bool) error {
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var l line
		if err := dec.Decode(&l); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		switch {
		case l.End:
			return nil
		case l.Error != nil:
			return l.Error.err()
		case !fn(&l):
			return nil
		}
	}
}

// Domains implements queue.Admin.
func (c *Client) Domains(fn func(domain string, n queue.Counts) bool) error {
	return c.stream(context.Background(), http.MethodGet, "/queue/domains", nil, func(l *line) bool {
		d := l.Domain
		return d == nil || fn(d.Domain, d.counts())
	})
}

// List implements queue.Admin.
func (c *Client) List(domain string, fn func(queue.Entry) bool) error {
	query := url.Values{}
	if domain != "" {
		query.Set("domain", domain)
	}
	return c.entries("/queue/messages", query, fn)
}

func (c *Client) entries(path string, query url.Values, fn func(queue.Entry) bool) error {
	var bad error
	err := c.stream(context.Background(), http.MethodGet, path, query, func(l *line) bool {
		if l.Message == nil {
			return true
		}
		e, err := l.Message.Entry()
		if err != nil {
			bad = err
			return false
		}
		return fn(e)
	})
	return errors.Join(bad, err)
}

// Show implements queue.Admin.
func (c *Client) Show(id mail.ID) ([]queue.Entry, error) {
	var entries []queue.Entry
	err := c.entries("/queue/messages/"+id.String(), nil, func(e queue.Entry) bool {
		entries = append(entries, e)
		return true
	})
	return entries, err
}

// Open implements queue.Admin.
func (c *Client) Open(id mail.ID) (queue.Body, error) {
	resp, err := c.request(context.Background(), http.MethodGet, "/queue/messages/"+id.String()+"/body", nil)
	if err != nil {
		return nil, err
	}
	return &remoteBody{src: resp.Body, size: resp.ContentLength, left: resp.ContentLength}, nil
}

// remoteBody is a queue.Body read from the socket.
type remoteBody struct {
	src        io.ReadCloser
	size, left int64
}

func (b *remoteBody) Size() int64 { return b.size }

// Ready never has anything in memory.
func (b *remoteBody) Ready() (queue.Segment, bool, error) {
	if b.left == 0 {
		return queue.Segment{}, true, io.EOF
	}
	return queue.Segment{}, false, nil
}

func (b *remoteBody) Next() (queue.Segment, error) {
	if b.left == 0 {
		return queue.Segment{}, io.EOF
	}
	data := make([]byte, min(b.left, segmentSize))
	if _, err := io.ReadFull(b.src, data); err != nil {
		return queue.Segment{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	b.left -= int64(len(data))
	return queue.Segment{Data: data}, nil
}

func (b *remoteBody) Close() { b.src.Close() }

// Remove implements queue.Admin.
func (c *Client) Remove(domain string, id mail.ID) (int, error) {
	return c.change(http.MethodDelete, domain, "/queue/messages/"+id.String())
}

// Release implements queue.Admin.
func (c *Client) Release(domain string, id mail.ID) (int, error) {
	return c.change(http.MethodPost, domain, "/queue/messages/"+id.String()+"/release")
}

// Bounce implements queue.Admin.
func (c *Client) Bounce(domain string, id mail.ID) (int, error) {
	return c.change(http.MethodPost, domain, "/queue/messages/"+id.String()+"/bounce")
}

// change asks for something to be done to a message in the queue of domain, and returns in how many queues it was.
func (c *Client) change(method, domain, path string) (n int, err error) {
	query := url.Values{}
	if domain != "" {
		query.Set("domain", domain)
	}
	err = c.stream(context.Background(), method, path, query, func(l *line) bool {
		switch {
		case l.Removed != nil:
			n = *l.Removed
		case l.Decided != nil:
			n = *l.Decided
		}
		return true
	})
	return n, err
}

// Check implements queue.Admin.
func (c *Client) Check(ctx context.Context, done func(done, total int64), report func(queue.Violation)) (queue.Checked, error) {
	var checked queue.Checked
	var bad error
	err := c.stream(ctx, http.MethodPost, "/queue/check", nil, func(l *line) bool {
		switch {
		case l.Progress != nil && done != nil:
			done(l.Progress.Done, l.Progress.Total)
		case l.Violation != nil:
			v := queue.Violation{Domain: l.Violation.Domain, Problem: l.Violation.Problem}
			if l.Violation.ID != "" {
				if v.ID, bad = mail.ParseID(l.Violation.ID); bad != nil {
					return false
				}
			}
			report(v)
		case l.Checked != nil:
			checked = *l.Checked
		}
		return true
	})
	return checked, errors.Join(bad, err)
}
