package session

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"odmr/internal/mail"
)

// A client that pipelines without end, while the disk stands still, gets so many messages taken and no more; once
// the disk moves, in whatever order, all replies come in theirs.
func TestIngressCommitsInFlightAreBounded(t *testing.T) {
	cfg := IngressConfig{Hostname: "mail.isp.example"}.Defaults()
	s := NewIngress(&cfg, IngressPeer{Client: "192.0.2.1", Trusted: true})
	var in, want bytes.Buffer
	const messages = 3 * ingressCommits
	in.WriteString("HELO a.example\r\n")
	want.WriteString("220 250 ")
	for i := range messages {
		fmt.Fprintf(&in, "MAIL FROM:<s%d@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 6 LAST\r\ntext\r\n", i)
		fmt.Fprintf(&want, "250 2.1.0 250 2.1.5 %d ", i+1)
	}
	in.WriteString(strings.Repeat("NOOP\r\n", 5000))
	want.WriteString(strings.Repeat("250 2.0.0 ", 5000))

	var out Output
	var said bytes.Buffer
	var commits []uint32
	ids := 0
	s.Start(0, &out)
	rest := in.Bytes()
	perform := func() {
		for again := true; again; {
			again = false
			said.Write(out.Reply)
			acts := append([]Action{}, out.Acts...)
			out.Reset()
			for i := range acts {
				r := Result{}
				switch acts[i].Kind {
				case ActCommit:
					commits = append(commits, acts[i].Ticket)
					continue
				case ActBegin:
					ids++
					r.ID = mail.ID(ids)
				}
				s.Done(0, acts[i].Ticket, &r, &out)
				again = true
			}
		}
	}
	read := func() {
		for {
			n := s.Input(0, rest, &out)
			rest = rest[n:]
			moved := n > 0 || len(out.Acts) > 0
			perform()
			if !moved || len(rest) == 0 {
				return
			}
		}
	}
	perform()
	for most := 0; len(rest) > 0 || len(commits) > 0; {
		read()
		if most = max(most, len(commits)); most > ingressCommits {
			t.Fatalf("%d messages are being committed at once, want %d at most", most, ingressCommits)
		}
		if s.commits.held > ingressHeld+100 {
			t.Fatalf("%d octets of replies are held back", s.commits.held)
		}
		if len(commits) == 0 {
			if most != ingressCommits {
				t.Fatalf("%d messages at once, want %d", most, ingressCommits)
			}
			continue
		}
		last := commits[len(commits)-1] // the newest first
		commits = commits[:len(commits)-1]
		s.Done(0, last, &Result{}, &out)
		perform()
	}
	var got strings.Builder
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSpace(line)
		if _, id, ok := strings.Cut(line, "queued as "); ok {
			n, err := mail.ParseID(id)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "%d ", uint64(n))
			continue
		}
		got.WriteString(strings.Join(strings.Fields(line)[:1+strings.Count(line[:min(len(line), 9)], ".")/2], " ") + " ")
	}
	if got.String() != want.String() {
		t.Errorf("replies:\n%.600s\nwant:\n%.600s", got.String(), want.String())
	}
}
