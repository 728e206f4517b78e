package conformance

import (
	"fmt"
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

// bodySizes has every boundary at which a body's layout may change.
var bodySizes = []int{
	0, 1, 2, 100, 4095, 4096, 4097, 10_000, mail.ChunkSize - 1, mail.ChunkSize, mail.ChunkSize + 1,
	2*mail.ChunkSize - 1, 2 * mail.ChunkSize, 2*mail.ChunkSize + 1, 3*mail.ChunkSize + 12345,
}

var incomingScenarios = []scenario{
	{"bodies of every size come back whole", bodiesWhole},
	{"envelopes come back whole", envelopesWhole},
	{"the last piece may be appended too", lastAppended},
	{"a message exists from Commit on", existsFromCommit},
	{"an aborted message never existed", abortedNever},
	{"a refused Commit leaves nothing", refusedCommit},
	{"ids grow and never come again", idsNeverAgain},
	{"messages outlast a restart", outlastRestart},
}

func bodiesWhole(t *testing.T, s *suite) {
	var bytes int64
	for i, size := range bodySizes {
		s.put(t, content(i, size), "a.example")
		bytes += int64(size)
	}
	wantCounts(t, "counts", s.Store.Counts("a.example"), queue.Counts{Messages: int64(len(bodySizes)), Bytes: bytes})
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	if len(ds) != len(bodySizes) {
		t.Fatalf("%d deliveries, want %d", len(ds), len(bodySizes))
	}
	for i, d := range ds {
		if d.Body.Size() != int64(bodySizes[i]) {
			t.Fatalf("size %d, want %d", d.Body.Size(), bodySizes[i])
		}
		wantBody(t, d.Body, content(i, bodySizes[i]))
	}
}

func envelopesWhole(t *testing.T, s *suite) {
	envs := []mail.Envelope{
		envelope("a.example", 3),
		{
			Domain: "xn--bcher-kva.example", Arrived: 1_712_345_678_901_234_567, ReversePath: "", Body: mail.Body8BitMIME, SMTPUTF8: true,
			Ret: mail.ReturnHeaders, EnvID: "QQ+2B314159", Client: "2001:db8::25", Size: 2, WireSize: 3, Stuffed: true, EightBit: true,
			Recipients: []mail.Recipient{
				{Address: "grün@xn--bcher-kva.example", Notify: mail.NotifySuccess | mail.NotifyDelay, ORcpt: "utf-8;gr\\x{FC}n@x"},
				{Address: "b@XN--BCHER-KVA.example", Notify: mail.NotifyNever},
				{Address: `"odd@local"@xn--bcher-kva.example`},
			},
		},
	}
	id := s.putEnvelopes(t, []byte("\r\n."), envs...)
	for _, env := range envs {
		if env.ID != id {
			t.Fatalf("Commit set ID %v, want %v", env.ID, id)
		}
		l := s.acquire(t, env.Domain)
		ds := next(t, l, many)
		if len(ds) != 1 || ds[0].Key.Domain != env.Domain {
			t.Fatalf("%d deliveries for %s", len(ds), env.Domain)
		}
		if got, want := fmt.Sprintf("%+v", ds[0].Envelope), fmt.Sprintf("%+v", env); got != want {
			t.Fatalf("envelope\n %s\nwant\n %s", got, want)
		}
		closeBodies(ds)
		l.Release()
	}
}

func lastAppended(t *testing.T, s *suite) {
	for i, size := range []int{5, mail.ChunkSize, mail.ChunkSize + 5, 2 * mail.ChunkSize} {
		body := content(i, size)
		in, err := s.Store.Begin(0)
		if err != nil {
			t.Fatal(err)
		}
		for rest := body; len(rest) > 0; {
			n := min(len(rest), mail.ChunkSize)
			if err := in.Append(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := in.Commit(nil, []mail.Envelope{envelope("a.example", size)}); err != nil {
			t.Fatal(err)
		}
		b, err := s.Store.Open(in.ID())
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, b, body)
	}
}

func existsFromCommit(t *testing.T, s *suite) {
	body := content(1, mail.ChunkSize+10)
	in, err := s.Store.Begin(int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if in.ID() == 0 {
		t.Fatal("no ID from Begin")
	}
	if err := in.Append(body[:mail.ChunkSize]); err != nil {
		t.Fatal(err)
	}
	l := s.acquire(t, "a.example")
	defer l.Release()
	wantCounts(t, "before Commit", s.Store.Counts("a.example"), queue.Counts{})
	if ds := next(t, l, many); len(ds) != 0 {
		t.Fatal("handed out before Commit")
	}
	_, err = s.Store.Show(in.ID())
	wantError(t, "Show before Commit", err, queue.ErrNotFound)
	Clean(t, s.Store)
	if err := in.Commit(body[mail.ChunkSize:], []mail.Envelope{envelope("a.example", len(body))}); err != nil {
		t.Fatal(err)
	}
	wantCounts(t, "after Commit", s.Store.Counts("a.example"), queue.Counts{Messages: 1, Bytes: int64(len(body))})
	ds := next(t, l, many)
	if len(ds) != 1 || ds[0].Envelope.ID != in.ID() {
		t.Fatalf("handed out %v, want %v", ids(ds), in.ID())
	}
	wantBody(t, ds[0].Body, body)
}

func abortedNever(t *testing.T, s *suite) {
	for _, chunks := range []int{0, 1, 3} {
		in, err := s.Store.Begin(0)
		if err != nil {
			t.Fatal(err)
		}
		for range chunks {
			if err := in.Append(content(1, mail.ChunkSize)); err != nil {
				t.Fatal(err)
			}
		}
		in.Abort()
		_, err = s.Store.Show(in.ID())
		wantError(t, "Show", err, queue.ErrNotFound)
		_, err = s.Store.Open(in.ID())
		wantError(t, "Open", err, queue.ErrNotFound)
		if err := in.Commit(nil, []mail.Envelope{envelope("a.example", 0)}); err == nil {
			t.Fatal("Commit after Abort worked")
		}
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
	Clean(t, s.Store)
}

func refusedCommit(t *testing.T, s *suite) {
	other := envelope("a.example", 3)
	other.Recipients[0].Address = "user@b.example"
	none := envelope("a.example", 3)
	none.Recipients = nil
	for name, envs := range map[string][]mail.Envelope{
		"no envelope":           {},
		"a domain twice":        {envelope("a.example", 3), envelope("a.example", 3)},
		"no domain":             {envelope("", 3)},
		"another size":          {envelope("a.example", 4)},
		"no recipient":          {none},
		"a foreign recipient":   {envelope("b.example", 3), other},
		"a NUL in the domain":   {envelope("a.example\x00", 3)},
		"one bad among several": {envelope("a.example", 3), envelope("b.example", 2)},
	} {
		id, err := put(s.Store, []byte("abc"), envs)
		if err == nil {
			t.Errorf("%s: Commit worked", name)
		}
		if _, err := s.Store.Show(id); err == nil {
			t.Errorf("%s: the message exists", name)
		}
	}
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{})
}

func idsNeverAgain(t *testing.T, s *suite) {
	var last mail.ID
	for round := range 3 {
		for i := range 20 {
			id := s.put(t, content(i, 10), "a.example")
			if id <= last {
				t.Fatalf("id %v after %v", id, last)
			}
			last = id
		}
		l := s.acquire(t, "a.example")
		settle(t, l, next(t, l, many), mail.OutcomeDelivered)
		l.Release()
		if round < 2 {
			s.restart(t)
		}
	}
}

func outlastRestart(t *testing.T, s *suite) {
	var want []mail.ID
	for i, size := range bodySizes {
		want = append(want, s.put(t, content(i, size), "a.example", fmt.Sprintf("d%d.example", i)))
	}
	totals := s.Store.Totals()
	s.restart(t)
	wantCounts(t, "totals", s.Store.Totals(), totals)
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	if !slices.Equal(ids(ds), want) {
		t.Fatalf("after the restart %v, want %v", ids(ds), want)
	}
	for i, d := range ds {
		wantBody(t, d.Body, content(i, bodySizes[i]))
	}
	Clean(t, s.Store)
}
