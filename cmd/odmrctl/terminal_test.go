package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"odmr/internal/mail"
)

func TestHarmless(t *testing.T) {
	const text = "a\tb\r\n\x1b]0;title\x07 \u009b2J é \u202e \xff \x9b \x7f 日本\n"
	const want = "a\tb\n?]0;title? ?2J é ? ? ? ? 日本\n"
	for cut := 1; cut <= len(text); cut++ {
		var out bytes.Buffer
		h := &harmless{out: &out}
		for p := []byte(text); len(p) > 0; p = p[min(cut, len(p)):] {
			if n, err := h.Write(p[:min(cut, len(p))]); err != nil || n != min(cut, len(p)) {
				t.Fatal(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q", cut, out.String())
		}
	}
}

// TestMailDoesNotMoveATerminal: a message on the operator's screen is text; in a file it is as its author wrote it.
func TestMailDoesNotMoveATerminal(t *testing.T) {
	data := dataDir(t)
	store := open(t, data)
	const hostile = "Subject: \x1b]0;owned\x07\u009b2Jx\r\n\r\nend\r\n"
	id := put(t, store, hostile, "one.example").String()
	in, err := store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	env := mail.Envelope{Domain: "two.example", Arrived: arrived.UnixNano(), ReversePath: "\u009b2J@isp.example", SMTPUTF8: true, Size: 3, WireSize: 3,
		Recipients: []mail.Recipient{{Address: "box@two.example"}}}
	if err := in.Commit([]byte("x\r\n"), []mail.Envelope{env}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := ctl(t, data, "show", id, "--body"); out != hostile {
		t.Errorf("in a file: %q", out)
	}
	for _, args := range [][]string{{"show", id, "--body"}, {"list", "--json"}} {
		if shown := shownOn(t, data, args...); bytes.ContainsAny(shown, "\x1b\x07\u009b") || !bytes.Contains(shown, []byte("?2J")) {
			t.Errorf("%v on a terminal: %q", args, shown)
		}
	}
	_, out, _ := ctl(t, data, "list", "--domain=two.example", "--json")
	if !json.Valid([]byte(out)) || !bytes.Contains([]byte(out), []byte("\u009b")) {
		t.Errorf("JSON in a file: %q", out)
	}
}

// shownOn runs odmrctl queue with its standard output on a terminal, and returns what that is given.
func shownOn(t *testing.T, data string, args ...string) []byte {
	t.Helper()
	master, slave := openTerminal(t)
	cmd := exec.Command(os.Args[0])
	cmd.Args = append([]string{"odmrctl", "--data", data, "queue"}, args...) // TestMain goes by the name
	cmd.Stdout = slave
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := slave.WriteString("END"); err != nil {
		t.Fatal(err)
	}
	var shown []byte
	for buf := make([]byte, 4096); !bytes.Contains(shown, []byte("END")); {
		_ = master.SetReadDeadline(time.Now().Add(5 * time.Minute))
		n, err := master.Read(buf)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		shown = append(shown, buf[:n]...)
	}
	return shown
}
