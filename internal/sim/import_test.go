package sim

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"odmr/internal/admin"
	"odmr/internal/imports"
	"odmr/internal/mail"
	"odmr/queue"
)

// RuleOnce: what is imported comes in once, however often it is handed in; and what is said to be here has come in.
const RuleOnce Rule = "once"

// mover is an operator who brings mail in that was held elsewhere: the same command again and again, which is interrupted,
// or the server is, by package admin's client and intake.
type mover struct {
	s       *Sim
	w       *world
	letters []*letter
	left    int // runs
}

// maxRuns is how often the command is run in bad weather.
const maxRuns = 12

func (s *Sim) newMover() *mover {
	m := &mover{s: s, w: s.w, left: maxRuns}
	for range s.w.between(2, 10) {
		m.letters = append(m.letters, s.newMoved())
	}
	return m
}

// newMoved writes a letter that is held elsewhere, for one recipient in each of some domains.
func (s *Sim) newMoved() *letter {
	w := s.w
	l := &letter{n: len(s.ledger.letters) + 1, moved: true, sent: w.now - int64(w.within(3*time.Hour))}
	if !w.chance(8) {
		l.from = fmt.Sprintf("s%d@far.example", l.n)
	}
	l.eight = w.chance(6)
	if w.chance(5) {
		l.envid = fmt.Sprintf("env+2B%d", l.n)
	}
	for _, d := range w.rng.Perm(len(s.domains))[:w.between(1, min(3, len(s.domains)))] {
		r := &recipient{letter: l, i: len(l.rcpts), domain: s.domains[d]}
		r.address = fmt.Sprintf("l%d.r%d@%s", l.n, r.i, r.domain)
		if w.chance(5) {
			r.notify = []mail.Notify{mail.NotifyNever, mail.NotifySuccess, mail.NotifyFailure | mail.NotifyDelay}[w.rng.IntN(3)]
		}
		l.rcpts = append(l.rcpts, r)
	}
	s.ledger.letters = append(s.ledger.letters, l)
	l.write(s)
	return l
}

// next runs the command after a while.
func (m *mover) next() {
	m.w.after(m.w.within(3*m.s.pace), func() {
		if m.left == 0 || m.s.calm {
			return
		}
		if h := m.s.host; h.up && !h.stopping {
			m.left--
			m.interrupted()
		}
		m.next()
	})
}

// interrupted runs the command, and perhaps something comes between.
func (m *mover) interrupted() {
	h, w := m.s.host, m.w
	h.speedUp()
	at := w.rng.Int64N(1 << w.between(4, 15))
	r := &run{m: m, up: -1, down: -1, asks: w.chance(2), now: w.chance(3), hears: true}
	if w.chance(4) {
		r.waive = []string{"quota"}
	}
	octets := 0
	for _, l := range m.letters {
		octets += callOctets + len(l.content)
	}
	switch kind := w.rng.IntN(8); {
	case kind == 0:
		w.meet("an import whose client was killed")
		r.up, r.hears = at, false
	case kind == 1:
		w.meet("an import whose answers were lost")
		r.down = at / 8
	case kind == 2 && h.tearable(octets):
		w.meet("a torn import")
		if err := h.raw.Sync(); err != nil {
			w.fail(RuleStore, "sync: %v", err)
		}
		h.disk.TearLog(at)
		r.torn, r.hears = true, false
		r.whole()
		h.torn = true
		h.crash(true)
		return
	case kind == 3 && m.s.faulty:
		w.meet("reads failing during an import")
		h.disk.FailReads()
		defer h.disk.MendReads()
	}
	r.whole()
	if w.chance(12) {
		h.disk.MendReads()
		h.crash(w.chance(2))
	}
	h.poke()
}

// finish runs it until all is here: twice, and the second time nothing comes in.
func (m *mover) finish() {
	for i := range 2 {
		r := &run{m: m, up: -1, down: -1, now: true, hears: true}
		r.whole()
		for _, l := range m.letters {
			for _, t := range l.rcpts {
				if !t.acked {
					m.w.fail(RuleOnce, "%v is not here at the end: %v", t, r.err)
				}
			}
		}
		if i == 1 && r.taken > 0 {
			m.w.fail(RuleOnce, "%d letters were brought in twice", r.taken)
		}
	}
}

// run is one run of the command.
type run struct {
	m        *mover
	up, down int64 // octets until the line breaks in that direction; negative: it does not
	torn     bool  // the server dies within it
	hears    bool  // the client lives to hear the answers
	asks     bool  // it asks first, as odmrctl does, and sends what would be taken
	now      bool  // letters count as arrived now
	waive    []string
	taken    int
	err      error
}

// whole brings in what there is.
func (r *run) whole() {
	h := r.m.s.host
	client := admin.NewClient(&socket{r, admin.Control(h.raw, h.intake)})
	h.importing = r
	defer func() { h.importing = nil }()
	send := r.m.letters
	if r.asks {
		answers, err := client.Ask(context.Background(), r.letters(send))
		if r.err = err; err != nil {
			h.w.trace("import: not even asked")
			return
		}
		var take []*letter
		for i := range answers {
			r.answered(send[i], &answers[i], false)
			if slices.ContainsFunc(answers[i].Recipients, func(v admin.Verdict) bool { return v.Verdict == admin.Taken }) {
				take = append(take, send[i])
			}
		}
		send = take
	}
	var answers []admin.Answer
	sending := client.Import(context.Background(), func(a *admin.Answer) { answers = append(answers, *a) })
	heads := r.letters(send)
	for i := range heads {
		if err := sending.Send(&heads[i], imports.Normal(bytes.NewReader(send[i].content), imports.KeepBare)); err != nil {
			break
		}
	}
	r.err = sending.Close()
	h.w.trace("import of %d letters, %d answered, whole=%v", len(send), len(answers), r.err == nil)
	for i := range answers {
		r.answered(send[answers[i].N], &answers[i], true)
	}
	if r.err == nil && len(answers) != len(send) {
		h.w.fail(RuleOnce, "%d answers to %d letters", len(answers), len(send))
	}
}

// letters are the heads of letters.
func (r *run) letters(all []*letter) (heads []admin.Letter) {
	for _, l := range all {
		source := imports.Letter{Identity: fmt.Sprintf("maildir %d", l.n)}
		digest, err := imports.Sum(imports.Normal(bytes.NewReader(l.content), imports.KeepBare))
		if err != nil {
			r.m.w.fail(RuleStore, "sum: %v", err)
		}
		v := mail.Envelope{ReversePath: l.from, EnvID: l.envid, Arrived: l.sent, Size: digest.Size, EightBit: digest.EightBit, Client: "192.0.2.2"}
		if digest.EightBit {
			v.Body = mail.Body8BitMIME
		}
		if r.now {
			v.Arrived = r.m.w.now
		}
		for _, t := range l.rcpts {
			v.Recipients = append(v.Recipients, mail.Recipient{Address: t.address, Notify: t.notify})
		}
		head := admin.NewLetter(&v)
		head.Content, head.Waive = hex.EncodeToString(digest.Sum[:]), r.waive
		for _, t := range l.rcpts {
			stamp := source.Stamp(digest.Sum, t.address)
			head.Stamps = append(head.Stamps, hex.EncodeToString(stamp[:]))
		}
		heads = append(heads, head)
	}
	return heads
}

// answered takes the answer to a letter, which a client that is dead does not hear.
func (r *run) answered(l *letter, a *admin.Answer, sent bool) {
	w := r.m.w
	if len(a.Recipients) != len(l.rcpts) {
		w.fail(RuleOnce, "%d verdicts about the %d recipients of %v", len(a.Recipients), len(l.rcpts), l)
		return
	}
	for i, t := range l.rcpts {
		v := a.Recipients[i]
		switch {
		case !r.hears:
		case v.Verdict == admin.Taken && sent:
			w.meet("a letter brought in")
			t.acked = true
			r.taken++
		case v.Verdict == admin.Here:
			w.meet("a letter that was here already")
			w.trace("%v is here already", t)
			r.m.s.ledger.isHere(t)
		case v.Verdict == admin.Refused:
			w.meet("a letter that was left")
		}
	}
}

// isHere says that the server has said so of a letter.
func (l *ledger) isHere(r *recipient) {
	e := r.letter.entry(r.domain)
	if e == nil || e.absent {
		l.w.fail(RuleOnce, "%v is said to be here, and has never come in", r)
		return
	}
	e.unsure, r.acked = false, true
}

// brought says that letters have been brought in, or, with unsure, perhaps.
func (l *ledger) brought(envelopes []mail.Envelope, unsure bool) {
	for i := range envelopes {
		v := &envelopes[i]
		r := l.find(v.ReversePath, v.Recipients[0].Address)
		if r == nil || !r.letter.moved || len(v.Recipients) != 1 {
			l.w.fail(RulePhantom, "brought in is mail for %+v, which nobody handed in", v.Recipients)
			return
		}
		if e := r.letter.entry(v.Domain); e != nil {
			if !e.absent && (!e.unsure || e.left) {
				l.w.fail(RuleOnce, "%v is brought in again", e)
			}
			e.absent = true // what a crash tore had not been done
			r.letter.entries = slices.DeleteFunc(r.letter.entries, func(o *entry) bool { return o == e })
		}
	}
	l.committed(envelopes, unsure)
}

// newIntake makes the way in for imports in one life of the server.
func (h *host) newIntake() *admin.Intake {
	return &admin.Intake{Store: importStore{h.store, h}, Gate: gate{h}}
}

// gate decides about imported mail as package engine and odmrd do. It may be asked twice, at any moment, so it leaves no trace.
type gate struct{ h *host }

// Admit implements admin.Gate.
func (g gate) Admit(a *admin.Asked) (string, *mail.Refusal) {
	h := g.h
	domain := a.Recipient[strings.LastIndexByte(a.Recipient, '@')+1:]
	owner, err := h.dir.Owner(domain)
	if err != nil {
		return "", routeResult(domain, false, nil).Refusal
	}
	_, placed := a.Ahead(domain)
	if !placed && !slices.Contains(a.Waive, "quota") {
		if r := h.overQuota(owner, a.Envelope.Size, a.Ahead); r != nil {
			return "", r
		}
	}
	if p := h.promised(domain); !p.Hold && time.Duration(h.w.now-a.Envelope.Arrived) >= p.Retention {
		return "", &mail.Refusal{Code: 554, Enhanced: "5.4.7", Text: "It would expire at once"}
	}
	return domain, nil
}

// Imported implements admin.Gate.
func (gate) Imported([]mail.Envelope) {}

// importStore is the store as the intake sees it: calls are waited for.
type importStore struct {
	queue.Store
	h *host
}

// Begin implements queue.Store.
func (s importStore) Begin(size int64) (queue.Incoming, error) {
	in, err := s.Store.Begin(size)
	if err != nil {
		return nil, err
	}
	return &movedIn{in, s.h}, nil
}

type movedIn struct {
	queue.Incoming
	h *host
}

// Append implements queue.Incoming.
func (in *movedIn) Append(data []byte) error {
	in.h.written += len(data)
	return in.Incoming.Append(data)
}

// Submit implements queue.Incoming.
func (in *movedIn) Submit(last []byte, envelopes []mail.Envelope, to queue.Waiter) {
	h := in.h
	o := newOnItsWay(nil)
	in.Incoming.Submit(last, envelopes, &o)
	err := <-o.outcome
	h.written += callOctets + len(last)
	if err == nil {
		h.ledger.brought(envelopes, h.importing.torn)
	}
	to.Committed(err)
}

// socket carries requests to the server, which is a function call, and breaks where the run says.
type socket struct {
	run     *run
	handler http.Handler
}

// RoundTrip implements http.RoundTripper.
func (s *socket) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.Body = io.NopCloser(&breaking{r.Body, &s.run.up})
	out := &reply{header: http.Header{}, status: http.StatusOK}
	s.handler.ServeHTTP(out, in)
	return &http.Response{Status: http.StatusText(out.status), StatusCode: out.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: out.header, Body: io.NopCloser(&breaking{&out.body, &s.run.down}), Request: r}, nil
}

// errBroke is a line that broke.
var errBroke = errors.New("the line broke")

// breaking reads until so many octets are left.
type breaking struct {
	io.Reader
	left *int64
}

// Read implements io.Reader.
func (b *breaking) Read(p []byte) (int, error) {
	if *b.left == 0 {
		return 0, errBroke
	}
	if *b.left > 0 && int64(len(p)) > *b.left {
		p = p[:*b.left]
	}
	n, err := b.Reader.Read(p)
	if *b.left > 0 {
		*b.left -= int64(n)
	}
	return n, err
}

// reply is an answer of the server's.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter, and so on; the rest is for http.ResponseController.
func (r *reply) Header() http.Header              { return r.header }
func (r *reply) WriteHeader(status int)           { r.status = status }
func (r *reply) Write(p []byte) (int, error)      { return r.body.Write(p) }
func (r *reply) Flush()                           {}
func (r *reply) EnableFullDuplex() error          { return nil }
func (r *reply) SetReadDeadline(time.Time) error  { return nil }
func (r *reply) SetWriteDeadline(time.Time) error { return nil }
