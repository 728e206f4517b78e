package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/conformance"
)

// lend acquires domains and has all of their messages, which are n, lent.
func lend(t testing.TB, s *Store, n int, domains ...string) (queue.Lease, []queue.Delivery) {
	t.Helper()
	l, err := s.Acquire(domains)
	if err != nil {
		t.Fatal(err)
	}
	ds, err := l.Next(nil, queue.Limit{Messages: n + 1, Bytes: 10 << 20})
	if err != nil || len(ds) != n {
		t.Fatalf("%d deliveries, %v; want %d", len(ds), err, n)
	}
	return l, ds
}

// placesOf are those of a.example at the stage.
func placesOf(t testing.TB, s *Store, stage queue.Stage) (seqs []uint64) {
	t.Helper()
	if err := s.Walk("a.example", stage, 0, func(k queue.Key, _ *mail.Envelope) bool {
		seqs = append(seqs, k.Seq)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return seqs
}

// putTest commits a message of size octets for domains.
func putTest(t testing.TB, s *Store, size int, domains ...string) mail.ID {
	t.Helper()
	in, err := s.Begin(int64(size))
	if err != nil {
		t.Fatal(err)
	}
	body := crashBody(in.ID(), size)
	for ; len(body) > mail.LastPiece; body = body[mail.ChunkSize:] {
		if err := in.Append(body[:mail.ChunkSize]); err != nil {
			t.Fatal(err)
		}
	}
	envs := make([]mail.Envelope, len(domains))
	for i, d := range domains {
		envs[i] = benchEnvelope(d, size)
	}
	if err := in.Commit(body, envs); err != nil {
		t.Fatal(err)
	}
	return in.ID()
}

// entryOf finds the key and record of a message's entry.
func entryOf(t *testing.T, s *Store, id mail.ID, domain string) (key, rec []byte) {
	t.Helper()
	at, err := s.locate(id)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := s.entries(id, at)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if p := &all[i]; p.domain == domain {
			return appendEntryKey(nil, p.space, p.domain, p.seq), appendEntry(nil, &p.env, p.stands)
		}
	}
	t.Fatalf("no entry of %v in %s", id, domain)
	return nil, nil
}

// ownKey returns the key of the own body of id.
func ownKey(t *testing.T, s *Store, id mail.ID, domain string) []byte {
	t.Helper()
	key, _ := entryOf(t, s, id, domain)
	key[0] = spaceOwn
	return key
}

// TestCheckFindsDamage breaks each invariant of Check on purpose.
func TestCheckFindsDamage(t *testing.T) {
	set := func(t *testing.T, s *Store, key, val []byte) {
		t.Helper()
		if err := s.db.Set(key, val, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	del := func(t *testing.T, s *Store, key []byte) {
		t.Helper()
		if err := s.db.Delete(key, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	rewrite := func(t *testing.T, s *Store, id mail.ID, edit func(*mail.Envelope)) {
		t.Helper()
		key, rec := entryOf(t, s, id, "a.example")
		env, stands, err := decodeEntry("a.example", rec)
		if err != nil {
			t.Fatal(err)
		}
		edit(&env)
		set(t, s, key, appendEntry(nil, &env, stands))
	}
	own := func(t *testing.T, s *Store) mail.ID { t.Helper(); return putTest(t, s, 100, "a.example") }
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, s *Store, small, large mail.ID)
		want   string
	}{
		{"nothing", func(*testing.T, *Store, mail.ID, mail.ID) {}, ""},
		{"unknown space", func(t *testing.T, s *Store, _, _ mail.ID) { set(t, s, []byte("zz"), nil) }, "unknown key"},
		{"unknown meta key", func(t *testing.T, s *Store, _, _ mail.ID) { set(t, s, []byte("mzz"), appendNumber(nil, 1)) }, "unknown key"},
		{"bad key", func(t *testing.T, s *Store, _, _ mail.ID) { set(t, s, []byte("cxx"), nil) }, "bad key"},
		{"bad entry", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, rec := entryOf(t, s, id, "a.example")
			set(t, s, key, rec[:len(rec)-1])
		}, "bad record"},
		{"entry gone", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, _ := entryOf(t, s, id, "a.example")
			del(t, s, key)
		}, "counts in memory"},
		{"last entry gone", func(t *testing.T, s *Store, _, id mail.ID) {
			key, _ := entryOf(t, s, id, "a.example")
			del(t, s, key)
		}, "body without an entry"},
		{"body gone", func(t *testing.T, s *Store, id, _ mail.ID) { del(t, s, appendBodyKey(nil, id)) }, "has no body"},
		{"body of others", func(t *testing.T, s *Store, id, other mail.ID) {
			rewrite(t, s, id, func(e *mail.Envelope) { e.ID = other })
		}, "says message"},
		{"entry of a body that does not name it", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, rec := entryOf(t, s, id, "a.example")
			key[len(key)-1]++
			set(t, s, key, rec)
		}, "is not named by its body"},
		{"bad body", func(t *testing.T, s *Store, id, _ mail.ID) { set(t, s, appendBodyKey(nil, id), []byte{1, 2, 3}) }, "bad record"},
		{"another size", func(t *testing.T, s *Store, id, _ mail.ID) {
			rewrite(t, s, id, func(e *mail.Envelope) { e.WireSize++ })
		}, "its body is of"},
		{"foreign recipient", func(t *testing.T, s *Store, id, _ mail.ID) {
			rewrite(t, s, id, func(e *mail.Envelope) { e.Recipients[0].Address = "x@b.example" })
		}, "is not in a.example"},
		{"no recipient pending", func(t *testing.T, s *Store, id, _ mail.ID) {
			rewrite(t, s, id, func(e *mail.Envelope) { e.Recipients[0].State = mail.Delivered })
		}, "stands in space e"},
		{"failed with a pending recipient", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, rec := entryOf(t, s, id, "a.example")
			key[0] = spaceFailed
			set(t, s, key, rec)
		}, "in space e and in f at once"},
		{"middle piece gone", func(t *testing.T, s *Store, _, id mail.ID) { del(t, s, appendChunkKey(nil, id, 1)) }, "where 1 was expected"},
		{"last piece gone", func(t *testing.T, s *Store, _, id mail.ID) { del(t, s, appendChunkKey(nil, id, 2)) }, "pieces of"},
		{"short piece", func(t *testing.T, s *Store, _, id mail.ID) { set(t, s, appendChunkKey(nil, id, 1), []byte("x")) }, "pieces of"},
		{"empty piece", func(t *testing.T, s *Store, _, id mail.ID) { set(t, s, appendChunkKey(nil, id, 1), nil) }, "has 0 octets"},
		{"orphan piece", func(t *testing.T, s *Store, _, id mail.ID) { set(t, s, appendChunkKey(nil, id+1, 0), []byte("x")) }, "without a body record"},
		{"bound too low", func(t *testing.T, s *Store, _, _ mail.ID) { set(t, s, keySequence, appendNumber(nil, 5)) }, "beyond the bound"},
		{"totals", func(_ *testing.T, s *Store, _, _ mail.ID) { s.totals.Bytes++ }, "the domains' sum"},
		{"counts", func(_ *testing.T, s *Store, _, _ mail.ID) { s.domains["a.example"].counts.Failed++ }, "counts in memory"},
		{"unknown domain", func(_ *testing.T, s *Store, _, _ mail.ID) { delete(s.domains, "b.example") }, "not in memory"},
		{"head too high", func(_ *testing.T, s *Store, _, _ mail.ID) { s.domains["b.example"].head = 1 << 63 }, "no lease would find it"},
		{"own body gone", func(t *testing.T, s *Store, _, _ mail.ID) { del(t, s, ownKey(t, s, own(t, s), "a.example")) }, "has no body"},
		{"entry of an own body gone", func(t *testing.T, s *Store, _, _ mail.ID) {
			key, _ := entryOf(t, s, own(t, s), "a.example")
			del(t, s, key)
		}, "without an entry"},
		{"bad own body", func(t *testing.T, s *Store, _, _ mail.ID) {
			set(t, s, ownKey(t, s, own(t, s), "a.example"), []byte{9})
		}, "bad record"},
		{"own body of another size", func(t *testing.T, s *Store, _, _ mail.ID) {
			id := own(t, s)
			set(t, s, ownKey(t, s, id, "a.example"), appendOwnHead(nil, id))
		}, "own body is"},
		{"own body of another message", func(t *testing.T, s *Store, _, _ mail.ID) {
			id := own(t, s)
			set(t, s, ownKey(t, s, id, "a.example"), append(appendOwnHead(nil, id+1), make([]byte, 100)...))
		}, "own body is"},
		{"shared body of an entry that says it stands alone", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, rec := entryOf(t, s, id, "a.example")
			rec[1] |= flagAlone
			set(t, s, key, rec)
		}, "stands alone"},
		{"own body of an entry with a shared one", func(t *testing.T, s *Store, id, _ mail.ID) {
			set(t, s, ownKey(t, s, id, "a.example"), append(appendOwnHead(nil, id), make([]byte, 100)...))
		}, "does not know of its own body"},
		{"shared body of an entry with an own one", func(t *testing.T, s *Store, id, _ mail.ID) {
			key, rec := entryOf(t, s, id, "a.example")
			rec[1] |= flagOwn
			set(t, s, key, rec)
		}, "and another under its id"},
		{"bad key of an own body", func(t *testing.T, s *Store, _, _ mail.ID) { set(t, s, []byte("dxx"), nil) }, "bad key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := testOptions(t, vfs.NewMem())
			s, err := Open("queue", opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			small := putTest(t, s, 100, "a.example", "b.example")
			large := putTest(t, s, 3*mail.ChunkSize, "a.example")
			c.damage(t, s, small, large)
			var got []string
			for _, v := range violations(t, s) {
				got = append(got, v.Problem)
			}
			if all := strings.Join(got, "\n"); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
				t.Fatalf("found %q, want %q", all, c.want)
			}
		})
	}
}

// TestDamageStaysBehind: an entry or body that cannot be read is reported and passed over, and the
// mail behind it goes on; nothing is dropped.
func TestDamageStaysBehind(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	ev := &events{t: t, lenient: true}
	opts.Events = ev
	s, err := Open("queue", opts)
	if err != nil {
		t.Fatal(err)
	}
	var ids []mail.ID
	for range 5 {
		ids = append(ids, putTest(t, s, 100, "a.example"))
	}
	large := putTest(t, s, 3*mail.ChunkSize, "a.example")
	key, rec := entryOf(t, s, ids[0], "a.example")
	for _, err := range []error{
		s.db.Set(key, append(rec, 'x'), pebble.Sync),
		s.db.Delete(ownKey(t, s, ids[2], "a.example"), pebble.Sync),
		s.db.Set(ownKey(t, s, ids[3], "a.example"), []byte("junk"), pebble.Sync),
		s.db.Delete(appendChunkKey(nil, large, 0), pebble.Sync),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for round := range 2 {
		l, err := s.Acquire([]string{"a.example"})
		if err != nil {
			t.Fatal(err)
		}
		ds, err := l.Next(nil, queue.Limit{Messages: 100, Bytes: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		if len(ds) != 2 || ds[0].Envelope.ID != ids[1] || ds[1].Envelope.ID != ids[4] {
			t.Fatalf("round %d: %d deliveries", round, len(ds))
		}
		for _, d := range ds {
			d.Body.Close()
		}
		if w := l.Waiting(); w.Messages != 0 {
			t.Fatalf("waiting %+v: a session would never be dry", w)
		}
		if n, _, _ := ev.counts(); n != 4*(round+1) {
			t.Fatalf("round %d: %d events", round, n)
		}
		l.Release()
		if got := s.Totals().Messages; got != 6 {
			t.Fatalf("%d messages", got)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// It opens again, and an operator can remove what is damaged.
	if s, err = Open("queue", opts); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := s.Totals()
	if n, err := s.Remove("", ids[0]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := s.Totals(); got.Messages != before.Messages-1 || got.Bytes != before.Bytes-100 {
		t.Fatalf("%+v before, %+v after", before, got)
	}
}

// TestReviewOfDamage: nobody is asked about an entry whose body's record is gone: it stays, so what would be decided and told of
// it would be so again and again.
func TestReviewOfDamage(t *testing.T) {
	opts := testOptions(t, vfs.NewMem())
	ev := &events{t: t, lenient: true}
	opts.Events = ev
	s, err := Open("queue", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	putTest(t, s, 3*mail.ChunkSize, "a.example")
	id := putTest(t, s, 100, "a.example", "b.example")
	putTest(t, s, 100, "a.example")
	if err := s.db.Delete(appendBodyKey(nil, id), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	seqs := placesOf(t, s, queue.Waiting)
	asked := 0
	if err := s.Review("a.example", queue.Waiting, seqs, func(e *queue.Reviewed) queue.Decision {
		if asked++; e.Envelope.ID == id {
			t.Error("asked about what stays in the queue")
		}
		return queue.Decision{Verdict: queue.Drop}
	}); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := ev.counts(); len(seqs) != 3 || asked != 2 || n != 1 || s.Counts("a.example").Messages != 1 {
		t.Errorf("%d entries, asked about %d, %d events, left %+v", len(seqs), asked, n, s.Counts("a.example"))
	}
}

// TestAbortDuringCheck: pieces that were being deleted while Check took its snapshot were reported as
// orphans, because they were gone from memory by the time it looked there.
func TestAbortDuringCheck(t *testing.T) {
	s := mustOpen(t, "queue", testOptions(t, vfs.NewMem()))
	// Many domains: a census takes a while, and pieces go on being deleted.
	for i := range 300 {
		putTest(t, s, 1, fmt.Sprintf("d%d.example", i))
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 700 {
				in, err := s.Begin(0)
				if err == nil {
					err = in.Append([]byte("a piece"))
				}
				if err != nil {
					t.Error(err)
					return
				}
				in.Abort()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		c := s.freeze() // of all of Check, only what went wrong
		c.ctx = context.Background()
		c.report = func(v queue.Violation) { t.Errorf("%v: %s", v.ID, v.Problem) }
		if err := errors.Join(c.chunks(), c.snap.Close()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestWrongPieces: a large body whose pieces are not what was stored ends in an error, and neither in a
// short body nor in a wrong one.
func TestWrongPieces(t *testing.T) {
	for name, damage := range map[string]func(s *Store, id mail.ID) error{
		"middle gone": func(s *Store, id mail.ID) error { return s.db.Delete(appendChunkKey(nil, id, 1), pebble.Sync) },
		"last gone":   func(s *Store, id mail.ID) error { return s.db.Delete(appendChunkKey(nil, id, 2), pebble.Sync) },
		"middle short": func(s *Store, id mail.ID) error {
			return s.db.Set(appendChunkKey(nil, id, 1), []byte("x"), pebble.Sync)
		},
		"last short": func(s *Store, id mail.ID) error {
			return s.db.Set(appendChunkKey(nil, id, 2), []byte("x"), pebble.Sync)
		},
		"last empty": func(s *Store, id mail.ID) error { return s.db.Set(appendChunkKey(nil, id, 2), nil, pebble.Sync) },
		"middle long": func(s *Store, id mail.ID) error {
			return s.db.Set(appendChunkKey(nil, id, 1), make([]byte, 3*mail.ChunkSize), pebble.Sync)
		},
	} {
		s, err := Open("queue", testOptions(t, vfs.NewMem()))
		if err != nil {
			t.Fatal(err)
		}
		id := putTest(t, s, 3*mail.ChunkSize, "a.example")
		if err := damage(s, id); err != nil {
			t.Fatal(err)
		}
		b, err := s.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := conformance.ReadBody(b); err == nil || errors.Is(err, io.EOF) || len(body) >= 3*mail.ChunkSize {
			t.Errorf("%s: %d octets, %v", name, len(body), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
