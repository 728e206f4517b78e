package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore"
)

// FuzzControl sends any request to the control socket's handler: every answer in lines of JSON is a whole one.
func FuzzControl(f *testing.F) {
	store, err := pebblestore.Open(QueueDir(f.TempDir()), pebblestore.Options{Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { store.Close() })
	for _, line := range []string{"GET /queue/domains", "GET /queue/messages?domain=one.example&after=0000000000001&limit=1", "GET /queue/messages/0000000000001",
		"GET /queue/messages/0000000000001/body", "DELETE /queue/messages/0000000000001?domain=x", "POST /queue/check", "GET /queue/messages/%00/body", "GET /../queue//domains"} {
		f.Add([]byte(line + " HTTP/1.1\r\nHost: x\r\n\r\n"))
	}
	f.Add([]byte("POST /queue/messages HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 30\r\n\r\n--x\r\n\r\n"))
	handler := Control(store, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Header().Get("Content-Type") != "application/jsonl" {
			return
		}
		var last line
		for dec := json.NewDecoder(w.Body); ; {
			var l line
			if err := dec.Decode(&l); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			last = l
		}
		if last.End == (last.Error != nil) || last.End != (w.Code == http.StatusOK) {
			t.Errorf("status %d, last line %+v", w.Code, last)
		}
	})
}

// tripper answers every request alike.
type tripper struct {
	status int
	body   string
}

func (a tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body))}, nil
}

// FuzzClient has the other end of the control socket answer anything: an answer without its last line is an error.
func FuzzClient(f *testing.F) {
	f.Add(true, `{"domain":{"domain":"a.example","messages":1}}`+"\n"+`{"end":true}`)
	f.Add(true, `{"message":{"id":"0000000000001","arrived":"2026-01-01T00:00:00Z","recipients":[{"notify":["NEVER"]}]}}`+"\n"+`{"end":true}`)
	f.Add(false, `{"error":{"kind":"busy","text":"x"}}`)
	f.Add(true, `{"checked":{},"violation":{"id":"x"},"progress":{"done":-1}}{"removed":1}{"error":{}}`)
	f.Fuzz(func(t *testing.T, ok bool, body string) {
		a := tripper{http.StatusInternalServerError, body}
		if ok {
			a.status = http.StatusOK
		}
		c := &Client{http: http.Client{Transport: a}}
		whole := ok && strings.Contains(strings.ToLower(body), `"end"`) || strings.Contains(body, `\u`) // as the key may be written
		for what, err := range map[string]error{
			"Domains": c.Domains(func(string, queue.Counts) bool { return true }),
			"List":    c.List("", func(e queue.Entry) bool { m := NewMessage(&e); return m.ID != "" }),
			"Remove":  second(c.Remove("", mail.ID(1))),
			"Check":   second(c.Check(t.Context(), func(int64, int64) {}, func(queue.Violation) {})),
			"Show":    second(c.Show(mail.ID(1))),
		} {
			if err == nil && !whole {
				t.Errorf("%s took %q for a whole answer", what, body)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
