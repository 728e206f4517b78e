package conformance

import (
	"fmt"
	"io"
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

var leaseScenarios = []scenario{
	{"small messages first, in each sender's order", leaseSmallFirst},
	{"a lease is exclusive, all or nothing", exclusive},
	{"an empty queue can be leased", emptyLease},
	{"order within each domain", order},
	{"limits of Next", limits},
	{"mail that arrives while leased is found", arrivesWhileLeased},
	{"a lease says when mail is there", notify},
	{"a customer gets own mail only", ownMailOnly},
	{"waiting counts what was not handed out", waiting},
	{"what was not settled is pending again", unsettled},
	{"bodies outlive the lease", bodiesOutlive},
	{"bodies may be closed half-way", bodiesHalfway},
	{"bodies are read again", bodiesAgain},
	{"bodies are opened wherever the entries stand", openBodies},
	{"a released lease does nothing", releasedLease},
	{"a closed store says so", closedStore},
}

func exclusive(t *testing.T, s *suite) {
	for _, d := range []string{"a.example", "b.example", "c.example"} {
		s.put(t, []byte(d), d)
	}
	l := s.acquire(t, "b.example")
	for _, domains := range [][]string{{"b.example"}, {"a.example", "b.example"}, {"c.example", "b.example", "a.example"}} {
		_, err := s.Store.Acquire(domains)
		wantError(t, fmt.Sprint(domains), err, queue.ErrBusy)
	}
	other := s.acquire(t, "a.example", "c.example") // nothing was kept by the refused ones
	other.Release()
	l.Release()
	l = s.acquire(t, "c.example", "b.example", "a.example")
	if got := l.Domains(); len(got) != 3 {
		t.Fatalf("Domains %v", got)
	}
	ds := next(t, l, queue.Limit{Messages: 1})
	if len(ds) != 1 {
		t.Fatalf("%d messages", len(ds))
	}
	closeBodies(ds)
	l.Release()
}

func emptyLease(t *testing.T, s *suite) {
	l := s.acquire(t, "nobody.example", "b.example")
	defer l.Release()
	wantCounts(t, "Waiting", l.Waiting(), queue.Counts{})
	if ds := next(t, l, many); len(ds) != 0 {
		t.Fatalf("%d deliveries", len(ds))
	}
}

func order(t *testing.T, s *suite) {
	want := map[string][]mail.ID{}
	for i := range 300 {
		ds := []string{fmt.Sprintf("d%d.example", i%3)}
		if i%7 == 0 {
			ds = []string{"d2.example", "d0.example"}
		}
		id := s.put(t, content(i, i*37%5000), ds...)
		for _, d := range ds {
			want[d] = append(want[d], id)
		}
	}
	check := func() {
		t.Helper()
		l := s.acquire(t, "d0.example", "d1.example", "d2.example")
		defer l.Release()
		got := map[string][]mail.ID{}
		keys := map[string][]uint64{}
		for {
			ds := next(t, l, queue.Limit{Messages: 7, Bytes: 1 << 30})
			if len(ds) == 0 {
				break
			}
			for _, d := range ds {
				got[d.Key.Domain] = append(got[d.Key.Domain], d.Envelope.ID)
				keys[d.Key.Domain] = append(keys[d.Key.Domain], d.Key.Seq)
			}
			closeBodies(ds)
		}
		for d := range want {
			if !slices.Equal(got[d], want[d]) {
				t.Fatalf("%s: %v\nwant %v", d, got[d], want[d])
			}
			if !slices.IsSorted(keys[d]) {
				t.Fatalf("%s: keys are not in order: %v", d, keys[d])
			}
		}
	}
	check()
	check() // nothing was settled
	s.restart(t)
	check()
}

func limits(t *testing.T, s *suite) {
	for i := range 10 {
		s.put(t, content(i, 1000), "a.example")
	}
	l := s.acquire(t, "a.example")
	defer l.Release()
	for _, c := range []struct {
		limit queue.Limit
		want  int
	}{
		{queue.Limit{Messages: 3, Bytes: 1 << 20}, 3},
		{queue.Limit{Messages: 10, Bytes: 1500}, 2}, // stops once it has so many octets
		{queue.Limit{Messages: 10, Bytes: 1}, 1},    // but one at least
		{queue.Limit{Messages: 10, Bytes: 1 << 20}, 4},
		{queue.Limit{Messages: 10, Bytes: 1 << 20}, 0},
	} {
		ds := next(t, l, c.limit)
		if len(ds) != c.want {
			t.Fatalf("%+v: %d deliveries, want %d", c.limit, len(ds), c.want)
		}
		closeBodies(ds)
	}
	s.put(t, content(1, 5), "a.example")
	dst := make([]queue.Delivery, 2, 8)
	dst, err := l.Next(dst, many)
	if err != nil || len(dst) != 3 {
		t.Fatalf("Next did not append: %d, %v", len(dst), err)
	}
	dst[2].Body.Close()
}

func arrivesWhileLeased(t *testing.T, s *suite) {
	l := s.acquire(t, "a.example", "b.example")
	defer l.Release()
	for i := range 20 {
		if ds := next(t, l, many); len(ds) != 0 {
			t.Fatal("not dry")
		}
		d := []string{"a.example", "b.example"}[i%2]
		id := s.put(t, content(i, 100), d)
		ds := next(t, l, many)
		if len(ds) != 1 || ds[0].Envelope.ID != id {
			t.Fatalf("round %d: %v, want %v", i, ids(ds), id)
		}
		if i%3 == 0 {
			settle(t, l, ds, mail.OutcomeDelivered)
		} else {
			closeBodies(ds)
		}
	}
}

func notify(t *testing.T, s *suite) {
	l := s.acquire(t, "a.example", "b.example")
	defer l.Release()
	calls := make(chan int, 100)
	tell := func(n int) func() { return func() { calls <- n } }
	// What a Commit that has returned brought was told of by then; nothing else may come.
	told := func(want ...int) {
		t.Helper()
		for _, n := range want {
			select {
			case got := <-calls:
				if got != n {
					t.Fatalf("call %d, want %d", got, n)
				}
			default:
				t.Fatalf("no call %d", n)
			}
		}
		if len(calls) > 0 {
			t.Fatalf("call %d for nothing", <-calls)
		}
	}
	l.Notify(tell(1))
	told()
	s.put(t, content(1, 10), "c.example", "aa.example")
	told()
	id := s.put(t, content(2, 10), "b.example", "a.example", "c.example")
	told(1)
	s.put(t, content(3, 10), "a.example") // once only
	told()
	l.Notify(tell(2)) // it is there already
	told(2)
	ds := next(t, l, many)
	if len(ds) != 3 || ds[0].Envelope.ID != id {
		t.Fatalf("%v handed out", ids(ds))
	}
	l.Notify(tell(3)) // handed out does not count, settled or not
	settle(t, l, ds[:1], mail.OutcomeDelivered)
	settle(t, l, ds[1:2], mail.OutcomeDeferred)
	closeBodies(ds[2:])
	told()
	l.Notify(tell(4)) // takes its place
	s.put(t, content(4, 3*mail.ChunkSize), "a.example")
	told(4)
	closeBodies(next(t, l, many))
	l.Notify(tell(5))
	l.Notify(nil)
	s.put(t, content(5, 10), "b.example")
	closeBodies(next(t, l, many))
	told()
	l.Notify(tell(6))
	l.Release()
	s.put(t, content(6, 10), "b.example")
	l.Notify(tell(7))
	told()
	other := s.acquire(t, "c.example", "b.example")
	defer other.Release()
	other.Notify(tell(8)) // waited for by nobody, but there
	told(8)
}

func ownMailOnly(t *testing.T, s *suite) {
	env := func(d string, locals ...string) mail.Envelope { return envelope(d, 5, locals...) }
	s.putEnvelopes(t, []byte("first"), env("a.example", "x"), env("aa.example", "y", "z"), env("a.example.example", "w"))
	s.putEnvelopes(t, []byte("secnd"), env("aa.example", "q"))
	s.putEnvelopes(t, []byte("third"), env("a.example-b.example", "v"), env("a.example", "u"))
	for d, want := range map[string]string{
		"a.example": "[x@a.example u@a.example]", "aa.example": "[y@aa.example z@aa.example q@aa.example]",
		"a.example.example": "[w@a.example.example]", "a.example-b.example": "[v@a.example-b.example]", "example": "[]",
	} {
		l := s.acquire(t, d)
		got := []string{}
		ds := next(t, l, many)
		for _, x := range ds {
			for _, r := range x.Envelope.Recipients {
				got = append(got, r.Address)
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s got %v, want %s", d, got, want)
		}
		closeBodies(ds)
		l.Release()
	}
}

func waiting(t *testing.T, s *suite) {
	for i := range 6 {
		s.put(t, content(i, 100), "a.example")
	}
	s.put(t, content(9, 50), "b.example")
	l := s.acquire(t, "a.example", "b.example")
	wantCounts(t, "at first", l.Waiting(), queue.Counts{Messages: 7, Bytes: 650})
	var ds []queue.Delivery
	for len(ds) < 4 {
		ds = append(ds, next(t, l, queue.Limit{Messages: 4 - len(ds), Bytes: 1 << 20})...)
	}
	left := l.Waiting()
	if left.Messages != 3 {
		t.Fatalf("after four: %+v", left)
	}
	settle(t, l, ds[:1], mail.OutcomeDelivered)
	settle(t, l, ds[1:2], mail.OutcomeDeferred)
	settle(t, l, ds[2:3], mail.OutcomeFailed)
	closeBodies(ds[3:])
	wantCounts(t, "after settling", l.Waiting(), left)
	s.put(t, content(1, 7), "a.example")
	left.Messages++
	left.Bytes += 7
	wantCounts(t, "after an arrival", l.Waiting(), left)
	closeBodies(next(t, l, many))
	wantCounts(t, "dry", l.Waiting(), queue.Counts{})
	l.Release()
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 6, Bytes: s.Store.Totals().Bytes, Failed: 1, Kept: 100})
}

func unsettled(t *testing.T, s *suite) {
	var want []mail.ID
	for i := range 5 {
		want = append(want, s.put(t, content(i, 300), "a.example"))
	}
	for range 3 {
		l := s.acquire(t, "a.example")
		ds := next(t, l, queue.Limit{Messages: 3, Bytes: 1 << 20})
		if !slices.Equal(ids(ds), want[:3]) {
			t.Fatalf("%v, want %v", ids(ds), want[:3])
		}
		if ds[0].Envelope.Attempts != 0 {
			t.Fatal("an attempt was counted that nobody settled")
		}
		closeBodies(ds)
		l.Release()
	}
}

func bodiesOutlive(t *testing.T, s *suite) {
	small, large := content(1, 2000), content(2, 2*mail.ChunkSize+7)
	s.put(t, small, "a.example")
	s.put(t, large, "a.example")
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	l.Release()
	seg, ok, err := ds[1].Body.Ready()
	if !ok || err != nil {
		t.Fatalf("first segment is not in memory: %v %v", ok, err)
	}
	first := seg.Data
	wantBody(t, ds[0].Body, small)
	got := append([]byte(nil), first...)
	for {
		more, err := ds[1].Body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more.Data...)
		more.Release()
	}
	ds[1].Body.Close()
	// Taken segments stay valid until their own release.
	if string(first) != string(large[:len(first)]) || string(got) != string(large) {
		t.Fatal("body differs")
	}
	seg.Release()
	if seg.Data != nil {
		t.Fatal("Data is still there")
	}
	seg.Release() // does nothing
}

func bodiesHalfway(t *testing.T, s *suite) {
	for i := range 3 {
		s.put(t, content(i, 3*mail.ChunkSize), "a.example")
	}
	l := s.acquire(t, "a.example")
	defer l.Release()
	ds := next(t, l, many)
	ds[0].Body.Close() // nothing taken
	ds[0].Body.Close()
	seg, _, err := ds[1].Body.Ready() // one taken, then closed, then released
	if err != nil {
		t.Fatal(err)
	}
	ds[1].Body.Close()
	if string(seg.Data) != string(content(1, 3*mail.ChunkSize)[:len(seg.Data)]) {
		t.Fatal("segment differs after Close")
	}
	seg.Release()
	if _, err := ds[1].Body.Next(); err == nil || err == io.EOF {
		t.Fatalf("Next after Close: %v", err)
	}
	wantBody(t, ds[2].Body, content(2, 3*mail.ChunkSize))
}

func releasedLease(t *testing.T, s *suite) {
	s.put(t, content(1, 10), "a.example")
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	closeBodies(ds)
	l.Release()
	err := l.Settle([]queue.Settlement{{Key: ds[0].Key, Outcomes: outcomes(ds[0], mail.OutcomeDelivered, "250 ok")}})
	wantError(t, "Settle", err, queue.ErrLeaseLost)
	_, err = l.Next(nil, many)
	wantError(t, "Next", err, queue.ErrLeaseLost)
	second := s.acquire(t, "a.example")
	l.Release() // must not end the second one's
	_, err = s.Store.Acquire([]string{"a.example"})
	wantError(t, "Acquire", err, queue.ErrBusy)
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 10})
	second.Release()
}

func closedStore(t *testing.T, s *suite) {
	s.put(t, content(1, 10), "a.example")
	l := s.acquire(t, "a.example")
	in, err := s.Store.Begin(0)
	if err != nil {
		t.Fatal(err)
	}
	closed := s.Store
	s.restart(t)
	_, err = closed.Begin(0)
	wantError(t, "Begin", err, queue.ErrClosed)
	wantError(t, "Commit", in.Commit(nil, []mail.Envelope{envelope("a.example", 0)}), queue.ErrClosed)
	_, err = closed.Acquire([]string{"b.example"})
	wantError(t, "Acquire", err, queue.ErrClosed)
	_, err = l.Next(nil, many)
	wantError(t, "Next", err, queue.ErrClosed)
	wantError(t, "List", closed.List("", func(queue.Entry) bool { return true }), queue.ErrClosed)
	_, err = closed.Show(1)
	wantError(t, "Show", err, queue.ErrClosed)
	wantError(t, "Close", closed.Close(), queue.ErrClosed)
	l.Release()
	wantCounts(t, "totals", s.Store.Totals(), queue.Counts{Messages: 1, Bytes: 10})
}

// bodiesAgain reads bodies from anywhere, with and without segments taken and held meanwhile.
func bodiesAgain(t *testing.T, s *suite) {
	for i, size := range []int{0, 5, 5000, mail.ChunkSize, mail.ChunkSize + 1, 2*mail.ChunkSize + 77_777} {
		want := content(i, size)
		s.put(t, want, "a.example")
		l := s.acquire(t, "a.example")
		ds := next(t, l, queue.Limit{Messages: 1})
		if len(ds) != 1 {
			t.Fatalf("%d deliveries", len(ds))
		}
		size := len(want)
		b := ds[0].Body
		for _, at := range []int{0, size, size / 2, 0, max(size-1, 0), min(size, mail.ChunkSize), min(size, 2*mail.ChunkSize), min(size, 7)} {
			b.Rewind(int64(at))
			if _, ok, err := b.Ready(); at < size && ok || at == size && (!ok || err != io.EOF) {
				t.Fatalf("%d of %d: Ready says %v, %v", at, size, ok, err)
			}
			first, err := b.Next()
			if at == size && err == io.EOF {
				continue
			}
			if err != nil {
				t.Fatalf("%d of %d: %v", at, size, err)
			}
			got := slices.Clone(first.Data)
			for err == nil {
				var seg queue.Segment
				if seg, err = b.Next(); err == nil {
					got = append(got, seg.Data...)
					seg.Release()
				}
			}
			if err != io.EOF || string(got) != string(want[at:]) {
				t.Fatalf("from %d of %d: %d octets, %v", at, size, len(got), err)
			}
			if string(first.Data) != string(want[at:at+len(first.Data)]) {
				t.Fatalf("from %d of %d: a segment that is held has changed", at, size)
			}
			first.Release()
		}
		settle(t, l, ds, mail.OutcomeDelivered)
		l.Release()
	}
}

// openBodies reads the bodies of messages: handed out, put back, kept for a bounce, and gone.
func openBodies(t *testing.T, s *suite) {
	sizes := []int{0, 10, 5000, 20_000, mail.ChunkSize, mail.ChunkSize + 1}
	for i, size := range sizes {
		s.put(t, content(i, size), "a.example")
		s.put(t, content(i, size), "a.example", "b.example")
	}
	l := s.acquire(t, "a.example")
	ds := next(t, l, many)
	if len(ds) != 2*len(sizes) {
		t.Fatalf("%d deliveries", len(ds))
	}
	read := func(d queue.Delivery, i int) {
		t.Helper()
		b, err := s.Store.Open(d.Envelope.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, b, content(i/2, sizes[i/2]))
	}
	for i, d := range ds {
		read(d, i) // while the first is open
		d.Body.Close()
		read(d, i)
	}
	settle(t, l, ds[:6], mail.OutcomeFailed)
	settle(t, l, ds[6:8], mail.OutcomeDeferred)
	settle(t, l, ds[8:], mail.OutcomeDelivered)
	l.Release()
	s.restart(t)
	for i, d := range ds[:8] {
		read(d, i)
	}
	for i, d := range ds[8:] {
		if i%2 == 1 { // is in b.example still
			read(d, 8+i)
			continue
		}
		_, err := s.Store.Open(d.Envelope.ID)
		wantError(t, "Open of what is gone", err, queue.ErrNotFound)
	}
	for i, d := range ds[:8] { // both forms are removed from both spaces
		if n, err := s.Store.Remove("a.example", d.Envelope.ID); n != 1 || err != nil {
			t.Fatalf("Remove %d: %d, %v", i, n, err)
		}
	}
	Clean(t, s.Store)
}

// leaseSmallFirst compares what comes out with what may: the places of large messages are free, but no message goes before an
// earlier one of the same sender, and no small one whose sender has nothing large before it waits for a large one.
func leaseSmallFirst(t *testing.T, s *suite) {
	const small = 1000
	put := func(sender string, size int) mail.ID {
		env := envelope("a.example", size)
		env.ReversePath = sender
		return s.putEnvelopes(t, content(size, size), env)
	}
	large0 := put("ann@x.example", 5000)
	one, large1 := put("bob@x.example", 100), put("cid@x.example", mail.ChunkSize+7)
	behind0 := put("ann@x.example", 50) // not before ann's large one
	two, behind1 := put("bob@x.example", small), put("cid@x.example", 9)
	three := put("", 10)
	want := []mail.ID{one, two, three, large0, large1, behind0, behind1}
	for _, limit := range []queue.Limit{many, {Messages: 1, Bytes: 1 << 20}, {Messages: 2, Bytes: 1 << 20}} {
		l := s.acquire(t, "a.example")
		l.SmallFirst(small)
		var got []mail.ID
		for {
			ds := next(t, l, limit)
			if len(ds) == 0 {
				break
			}
			got = append(got, ids(ds)...)
			settle(t, l, ds, mail.OutcomeDeferred) // so that the next lease finds what this one left
		}
		if !slices.Equal(got, want) {
			t.Fatalf("limit %+v: got %v, want %v", limit, got, want)
		}
		l.Release()
		s.restart(t)
	}
	// A session that ends before its large ones: nothing is forgotten. What comes meanwhile may still overtake.
	l := s.acquire(t, "a.example")
	l.SmallFirst(small)
	settle(t, l, next(t, l, queue.Limit{Messages: 4, Bytes: 1 << 20}), mail.OutcomeDelivered) // the small ones and large0
	late, lateBehind := put("dan@x.example", 11), put("cid@x.example", 12)
	ds := next(t, l, many)
	if want := []mail.ID{late, large1, behind0, behind1, lateBehind}; !slices.Equal(ids(ds), want) {
		t.Fatalf("then %v, want %v", ids(ds), want)
	}
	settle(t, l, ds[:1], mail.OutcomeDelivered)
	closeBodies(ds[1:])
	l.Release()
	l = s.acquire(t, "a.example") // and without it, in the order of arrival
	ds = next(t, l, many)
	if want := []mail.ID{large1, behind0, behind1, lateBehind}; !slices.Equal(ids(ds), want) {
		t.Fatalf("afterwards %v, want %v", ids(ds), want)
	}
	settle(t, l, ds, mail.OutcomeDelivered)
	l.Release()
	if n := Clean(t, s.Store); n != (queue.Checked{}) {
		t.Fatalf("left behind: %+v", n)
	}

	// More large ones than anybody looks over: they go on in order, and nothing is lost or sent twice.
	for i := range 1200 {
		put(fmt.Sprintf("s%d@x.example", i), small+1)
	}
	last := put("zoe@x.example", 1)
	l = s.acquire(t, "a.example")
	l.SmallFirst(small)
	seen, at := map[mail.ID]bool{}, 0
	for len(seen) < 1201 {
		ds := next(t, l, queue.Limit{Messages: 100, Bytes: 1 << 20})
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			if d.Envelope.ID == last {
				at = len(seen)
			}
			seen[d.Envelope.ID] = true
		}
		settle(t, l, ds, mail.OutcomeDelivered)
	}
	l.Release()
	if len(seen) != 1201 || at == 1200 || s.Store.Totals() != (queue.Counts{}) {
		t.Fatalf("%d were handed out, the small one as number %d; left %+v", len(seen), at, s.Store.Totals())
	}
}
