package outbound

import (
	"errors"
	"slices"
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
)

// unreadable is a store that cannot read some messages: it says so in Next of what it is to pass over, or in the body.
type unreadable struct {
	Store
	addresses, late []string
}

func (u *unreadable) Acquire(domains []string) (queue.Lease, error) {
	l, err := u.Store.Acquire(domains)
	return &unreadableLease{Lease: l, of: u}, err
}

type unreadableLease struct {
	queue.Lease
	of     *unreadable
	unread func(mail.ID, error)
}

func (l *unreadableLease) PassOver(fn func(mail.ID, error)) { l.unread = fn }

func (l *unreadableLease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	limit.Messages = 1000 // what is passed over is not the end
	ds, err := l.Lease.Next(nil, limit)
	for i := range ds {
		d := &ds[i]
		switch to := d.Envelope.Recipients[0].Address; {
		case slices.Contains(l.of.addresses, to) && l.unread == nil:
			return dst, closeAll(ds[i:], errDisk)
		case slices.Contains(l.of.addresses, to):
			d.Body.Close()
			l.unread(d.Envelope.ID, errDisk)
			continue
		case slices.Contains(l.of.late, to):
			d.Body = badBody{d.Body}
		}
		dst = append(dst, *d)
	}
	return dst, err
}

var errDisk = errors.New("the disk does not give it")

type badBody struct{ queue.LeasedBody }

func (badBody) Ready() (queue.Segment, bool, error) { return queue.Segment{}, false, nil }
func (badBody) Next() (queue.Segment, error)        { return queue.Segment{}, errDisk }

// What cannot be read stands in nobody's way: the rest goes out, in order, and it follows when it can be read.
func TestUnreadableIsPassedOver(t *testing.T) {
	s := newSink(t, TLSNone)
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	for _, to := range []string{"a", "b", "c", "d", "e"} {
		w.put(to+"@elsewhere.example", "Subject: x\r\n\r\nx\r\n", 0)
	}
	disk := &unreadable{w.store, []string{"a@elsewhere.example"}, []string{"c@elsewhere.example"}}
	w.sender.cfg.Store = disk
	got := func() (to []string) {
		for _, m := range s.got {
			to = append(to, m.to[:1])
		}
		return to
	}
	for range 3 {
		w.pass()
		w.wantWaiting(2)
	}
	if to := got(); !slices.Equal(to, []string{"b", "d", "e"}) || w.seen["unreadable"] != 6 || w.seen["sent"] != 3 {
		t.Errorf("got %q, seen %v", to, w.seen)
	}
	disk.addresses, disk.late = nil, nil
	w.pass()
	w.wantWaiting(0)
	if to := got(); !slices.Equal(to, []string{"b", "d", "e", "a", "c"}) {
		t.Errorf("afterwards: got %q", to)
	}
}

// What was handed out before the disk failed is sent.
func TestSentBeforeTheDiskFails(t *testing.T) {
	s := newSink(t, TLSNone)
	w := newWorld(t, Smarthost{Addr: s.addr, TLS: TLSNone})
	w.put("a@elsewhere.example", "Subject: x\r\n\r\nx\r\n", 0)
	w.put("b@elsewhere.example", "Subject: x\r\n\r\nx\r\n", 0)
	w.sender.cfg.Store = failing{w.store}
	w.pass()
	w.wantWaiting(1)
	if len(s.got) != 1 || w.sender.fails != 1 {
		t.Errorf("got %d, %d failures", len(s.got), w.sender.fails)
	}
}

type failing struct{ Store }

func (f failing) Acquire(domains []string) (queue.Lease, error) {
	l, err := f.Store.Acquire(domains)
	return failingLease{l}, err
}

type failingLease struct{ queue.Lease }

func (l failingLease) Next(dst []queue.Delivery, limit queue.Limit) ([]queue.Delivery, error) {
	limit.Messages = 1
	dst, err := l.Lease.Next(dst, limit)
	return dst, errors.Join(err, errDisk)
}
