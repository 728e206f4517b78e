package pebblestore

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

// Where bodies stand by their size, and that each is read back whole and leaves nothing behind.
func TestWhereBodiesStand(t *testing.T) {
	for _, c := range []struct {
		size    int
		domains []string
		stands  bodyPlace
		pieces  int
	}{
		{0, []string{"a.example"}, beside, 0},
		{piecesFrom - 1, []string{"a.example"}, beside, 0},
		{piecesFrom, []string{"a.example"}, alone, 1},
		{mail.ChunkSize + 1, []string{"a.example"}, alone, 1},
		{mail.LastPiece, []string{"a.example"}, alone, 1},
		{mail.LastPiece + 1, []string{"a.example"}, alone, 2},
		{3*mail.ChunkSize + 5, []string{"a.example"}, alone, 3},
		{3*mail.ChunkSize + 5, []string{"a.example", "b.example"}, underID, 3},
		{mail.LastPiece, []string{"a.example", "b.example"}, underID, 0},
	} {
		t.Run(fmt.Sprintf("%d for %d", c.size, len(c.domains)), func(t *testing.T) {
			s := mustOpen(t, "queue", testOptions(t, vfs.NewMem()))
			id := putTest(t, s, c.size, c.domains...)
			_, rec := entryOf(t, s, id, "a.example")
			if p, err := peekEntry(rec); err != nil || p.stands != c.stands {
				t.Fatalf("stands %d, %v; want %d", p.stands, err, c.stands)
			}
			if n := countKeys(t, s, spaceChunk); n != c.pieces {
				t.Fatalf("%d pieces, want %d", n, c.pieces)
			}
			mustClean(t, s)
			l, ds := lend(t, s, len(c.domains), c.domains...)
			defer l.Release()
			for _, d := range ds {
				for _, at := range []int{0, c.size / 2, max(c.size-3, 0)} {
					d.Body.Rewind(int64(at))
					if got := restOf(t, d.Body); !bytes.Equal(got, crashBody(id, c.size)[at:]) {
						t.Fatalf("from %d: %d octets, or others", at, len(got))
					}
				}
			}
			collect(t, l, ds)
			for _, space := range []byte{spaceBody, spaceChunk, spaceOwn, spaceEntry} {
				if n := countKeys(t, s, space); n > 0 {
					t.Errorf("%d keys are left in space %c", n, space)
				}
			}
		})
	}
}

// restOf reads b to its end.
func restOf(t *testing.T, b queue.Body) (all []byte) {
	t.Helper()
	for {
		seg, err := b.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, seg.Data...)
		seg.Release()
	}
}

// collect settles ds as delivered.
func collect(t *testing.T, l queue.Lease, ds []queue.Delivery) {
	t.Helper()
	ts := make([]queue.Settlement, len(ds))
	for i, d := range ds {
		d.Body.Close()
		ts[i] = queue.Settlement{Key: d.Key, Outcomes: []mail.Outcome{{Status: mail.OutcomeDelivered}}}
	}
	if err := l.Settle(ts); err != nil {
		t.Fatal(err)
	}
}

func countKeys(t *testing.T, s *Store, space byte) (n int) {
	t.Helper()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	return n
}

// A session reads a large body for one domain, and settles it, without a look at the body's record: what is not there
// cannot have been read.
func TestAloneNeedsNoBodyRecord(t *testing.T) {
	s := mustOpen(t, "queue", testOptions(t, vfs.NewMem()))
	id := putTest(t, s, 2*mail.ChunkSize, "a.example")
	if err := s.db.Delete(appendBodyKey(nil, id), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	l, ds := lend(t, s, 1, "a.example")
	defer l.Release()
	collect(t, l, ds)
	mustClean(t, s)
}

// A store of format 3 has pieces of a chunk at the most, and entries that do not say that their body stands alone.
func TestPiecesOfFormat3(t *testing.T) {
	s := mustOpen(t, "queue", testOptions(t, vfs.NewMem()))
	const size = mail.ChunkSize + 100
	in, err := s.Begin(size)
	if err != nil {
		t.Fatal(err)
	}
	body := crashBody(in.ID(), size)
	if err := in.Append(body[:mail.ChunkSize]); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(body[mail.ChunkSize:], []mail.Envelope{benchEnvelope("a.example", size)}); err != nil {
		t.Fatal(err)
	}
	if _, rec := entryOf(t, s, in.ID(), "a.example"); bodyPlace(rec[1])&(alone|beside) != 0 {
		t.Fatalf("flags %x: the pieces are not those of a body that stands alone", rec[1])
	}
	l, ds := lend(t, s, 1, "a.example")
	defer l.Release()
	ds[0].Body.Rewind(mail.ChunkSize + 50)
	if got := restOf(t, ds[0].Body); !bytes.Equal(got, body[mail.ChunkSize+50:]) {
		t.Fatalf("%d octets, or others", len(got))
	}
	collect(t, l, ds)
	mustClean(t, s)
}
