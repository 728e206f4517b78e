package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
)

// SocketName is the control socket's name within the data directory.
const SocketName = "control.sock"

// QueueDir is where the store is within a data directory.
func QueueDir(data string) string { return filepath.Join(data, "queue") }

// SocketPath is where a server with that data directory has its control socket.
func SocketPath(data string) string { return filepath.Join(data, SocketName) }

// maxSocketPath is the most octets of a unix socket's path, unix(7), less the one that ends it.
const maxSocketPath = 107

// stallTimeout is how long a client of the control socket may leave an answer unread before it is
// cut off: a listing holds a view of the store open for as long as it runs.
const stallTimeout = time.Minute

// line is one line of a streamed answer. Exactly one field is set; the last line of a complete answer
// is End or Error, so that a reader can tell a whole answer from a broken one.
type line struct {
	Domain    *DomainCounts  `json:"domain,omitempty"`
	Message   *Message       `json:"message,omitempty"`
	Progress  *progress      `json:"progress,omitempty"`
	Violation *violation     `json:"violation,omitempty"`
	Checked   *queue.Checked `json:"checked,omitempty"`
	Removed   *int           `json:"removed,omitempty"`
	Decided   *int           `json:"decided,omitempty"`
	Answer    *Answer        `json:"answer,omitempty"`
	Error     *failure       `json:"error,omitempty"`
	End       bool           `json:"end,omitempty"`
}

type progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

type violation struct {
	Domain  string `json:"domain,omitempty"`
	ID      string `json:"id,omitempty"`
	Problem string `json:"problem"`
}

// failure is an error on its way through the socket. Kind lets the other end find the queue's own errors again.
type failure struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text"`
}

// kinds are the errors that keep their identity, and their HTTP status.
var kinds = []struct {
	kind   string
	err    error
	status int
}{
	{"busy", queue.ErrBusy, http.StatusConflict},
	{"not-found", queue.ErrNotFound, http.StatusNotFound},
	{"closed", queue.ErrClosed, http.StatusServiceUnavailable},
	{"bad-id", mail.ErrBadID, http.StatusBadRequest},
	{"bad-request", errRequest, http.StatusBadRequest},
	{"full", queue.ErrFull, http.StatusInsufficientStorage},
	{"no-import", ErrNoImport, http.StatusServiceUnavailable},
	{"still", ErrStill, http.StatusRequestTimeout},
}

var errRequest = errors.New("bad request")

func newFailure(err error) (*failure, int) {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return &failure{Kind: k.kind, Text: err.Error()}, k.status
		}
	}
	return &failure{Text: err.Error()}, http.StatusInternalServerError
}

func (f *failure) err() error {
	for _, k := range kinds {
		if f.Kind == k.kind {
			return &remoteError{f.Text, k.err}
		}
	}
	return errors.New(f.Text)
}

// remoteError has the text of the other end and is the error that it names.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// ServeControl opens the control socket of a server with that data directory, mode 0600, and serves
// q, and intake unless it is nil, there until Shutdown. The caller must hold the store that q belongs to: a socket that is
// there already is a dead server's and is replaced.
func ServeControl(data string, q queue.Admin, intake *Intake) (*Server, error) {
	path := SocketPath(data)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path %s has %d octets, and a socket's at most %d: choose a shorter --data", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return newServer(Control(q, intake), []net.Listener{l}).serve(), nil
}

// Control carries q over HTTP. Answers are lines of JSON:
//
//	GET    /queue/domains                           every domain with its counts
//	GET    /queue/messages?domain=&after=&limit=    entries, oldest first; after an id (needs domain), at most limit
//	GET    /queue/messages/{id}                     the entries of one message
//	GET    /queue/messages/{id}/body                its body in wire form (not JSON)
//	DELETE /queue/messages/{id}?domain=             remove it from one domain, or from all
//	POST   /queue/messages/{id}/release?domain=     make its held recipients pending again, in one domain or in all
//	POST   /queue/messages/{id}/bounce?domain=      make them failed
//	POST   /queue/check                             verify the store: progress, violations, what was checked
//	POST   /import/ask                              what would become of letters; see Intake
//	POST   /import                                  bring them in
func Control(q queue.Admin, intake *Intake) http.Handler {
	c := control{q}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /queue/domains", c.domains)
	mux.HandleFunc("GET /queue/messages", c.list)
	mux.HandleFunc("GET /queue/messages/{id}", c.show)
	mux.HandleFunc("GET /queue/messages/{id}/body", c.body)
	mux.HandleFunc("DELETE /queue/messages/{id}", c.remove)
	mux.HandleFunc("POST /queue/messages/{id}/release", func(w http.ResponseWriter, r *http.Request) { decide(w, r, q.Release) })
	mux.HandleFunc("POST /queue/messages/{id}/bounce", func(w http.ResponseWriter, r *http.Request) { decide(w, r, q.Bounce) })
	mux.HandleFunc("POST /queue/check", c.check)
	mux.HandleFunc("POST /import/ask", func(w http.ResponseWriter, r *http.Request) { intake.serve(w, r, intake.ask) })
	mux.HandleFunc("POST /import", func(w http.ResponseWriter, r *http.Request) { intake.serve(w, r, intake.take) })
	return mux
}

type control struct{ queue queue.Admin }

// answer writes the lines of one answer. Its methods may be called from several goroutines.
type answer struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	guard guard
	enc   *json.Encoder
	begun bool
	err   error // the first failure to write
}

func newAnswer(w http.ResponseWriter) *answer {
	g := guard{w, http.NewResponseController(w)}
	return &answer{w: w, guard: g, enc: json.NewEncoder(g)}
}

// guard cuts off a client that leaves a piece unread for stallTimeout.
type guard struct {
	io.Writer
	control *http.ResponseController
}

func (g guard) Write(p []byte) (int, error) {
	watch := time.AfterFunc(stallTimeout, func() { g.control.SetWriteDeadline(time.Unix(1, 0)) })
	defer watch.Stop()
	return g.Writer.Write(p)
}

// Flush sends on what has been written.
func (g guard) Flush() error {
	watch := time.AfterFunc(stallTimeout, func() { g.control.SetWriteDeadline(time.Unix(1, 0)) })
	defer watch.Stop()
	return g.control.Flush()
}

// send writes one line and reports whether the client is still there.
func (a *answer) send(l line) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", "application/jsonl")
	}
	if a.err == nil {
		a.err = a.enc.Encode(l)
	}
	return a.err == nil
}

// end closes the answer with success or err.
func (a *answer) end(err error) {
	if err == nil {
		a.send(line{End: true})
		return
	}
	f, status := newFailure(err)
	if !a.begun {
		a.w.Header().Set("Content-Type", "application/jsonl")
		a.w.WriteHeader(status)
	}
	a.send(line{Error: f})
}

func (c control) domains(w http.ResponseWriter, _ *http.Request) {
	a := newAnswer(w)
	a.end(c.queue.Domains(func(domain string, n queue.Counts) bool {
		d := NewDomainCounts(domain, n)
		return a.send(line{Domain: &d})
	}))
}

func (c control) list(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w)
	domain, after, limit, err := listParams(r)
	if err != nil {
		a.end(fmt.Errorf("%w: %w", errRequest, err))
		return
	}
	sent := int64(0)
	a.end(c.queue.List(domain, func(e queue.Entry) bool {
		if after != 0 {
			if e.Envelope.ID == after {
				after = 0
			}
			return true
		}
		m := NewMessage(&e)
		sent++
		return a.send(line{Message: &m}) && sent != limit
	}))
}

// listParams reads the query of a listing; limit 0 means no limit.
func listParams(r *http.Request) (domain string, after mail.ID, limit int64, err error) {
	domain = r.FormValue("domain")
	if text := r.FormValue("after"); text != "" {
		if after, err = mail.ParseID(text); err != nil {
			return "", 0, 0, fmt.Errorf("after: %w", err)
		}
		if domain == "" {
			return "", 0, 0, errors.New("after: needs domain, since a message may be in several")
		}
	}
	if text := r.FormValue("limit"); text != "" {
		if limit, err = strconv.ParseInt(text, 10, 64); err != nil || limit < 1 {
			return "", 0, 0, fmt.Errorf("limit: %q is not a positive number", text)
		}
	}
	return domain, after, limit, nil
}

func (c control) show(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w)
	id, err := mail.ParseID(r.PathValue("id"))
	if err != nil {
		a.end(err)
		return
	}
	entries, err := c.queue.Show(id)
	for i := range entries {
		m := NewMessage(&entries[i])
		a.send(line{Message: &m})
	}
	a.end(err)
}

// body sends the body as it is stored. Its length is told beforehand, so that a body that breaks
// off is seen by the client.
func (c control) body(w http.ResponseWriter, r *http.Request) {
	id, err := mail.ParseID(r.PathValue("id"))
	if err != nil {
		newAnswer(w).end(err)
		return
	}
	body, err := c.queue.Open(id)
	if err != nil {
		newAnswer(w).end(err)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(body.Size(), 10))
	// After an error fewer octets than announced were written: net/http then closes the
	// connection, and the client sees that the body broke off.
	_ = CopyBody(guard{w, http.NewResponseController(w)}, body)
}

// CopyBody writes what is left of body, in wire form. It does not close body.
func CopyBody(w io.Writer, body queue.Body) error {
	for {
		seg, err := body.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = w.Write(seg.Data)
		seg.Release()
		if err != nil {
			return err
		}
	}
}

func (c control) remove(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w)
	id, err := mail.ParseID(r.PathValue("id"))
	if err != nil {
		a.end(err)
		return
	}
	n, err := c.queue.Remove(r.FormValue("domain"), id)
	if err == nil {
		a.send(line{Removed: &n})
	}
	a.end(err)
}

// decide carries out an operator's decision about held mail.
func decide(w http.ResponseWriter, r *http.Request, how func(string, mail.ID) (int, error)) {
	a := newAnswer(w)
	id, err := mail.ParseID(r.PathValue("id"))
	if err != nil {
		a.end(err)
		return
	}
	n, err := how(r.FormValue("domain"), id)
	if err == nil {
		a.send(line{Decided: &n})
	}
	a.end(err)
}

func (c control) check(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w)
	checked, err := c.queue.Check(r.Context(),
		func(done, total int64) {
			a.send(line{Progress: &progress{done, total}})
			a.flush()
		},
		func(v queue.Violation) {
			out := violation{Domain: v.Domain, Problem: v.Problem}
			if v.ID != 0 {
				out.ID = v.ID.String()
			}
			a.send(line{Violation: &out})
		})
	if err == nil {
		a.send(line{Checked: &checked})
	}
	a.end(err)
}

// flush sends on what has been written.
func (a *answer) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = a.guard.Flush()
	}
}
