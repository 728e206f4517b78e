package admin

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"odmr/codec"
	"odmr/internal/mail"
	"odmr/queue"
)

// ErrNoImport says that the server does not take mail through the control socket, or not now.
var ErrNoImport = errors.New("admin: the server does not take mail here at present")

// ErrStill says that the server has ended an import because its client stood still. It may begin again.
var ErrStill = errors.New("the server has ended the import")

const (
	// maxImports is how many imports may be under way at once, so that their memory is bounded; one fills a disk already.
	maxImports = 2
	// importWindow is how many letters of one import may wait for the disk: few syncs for many, and at most a chunk of memory each.
	importWindow = 32
	// importStall is how long a client may send nothing, within an import or a question: one that was stopped must not keep others out. It can
	// begin again.
	importStall = 10 * time.Minute
	// importRest is how long what a client still sends is read after its request has failed, so that it comes to read why.
	importRest = 5 * time.Second
)

// Asked is a recipient that Gate decides about.
type Asked struct {
	Envelope  *mail.Envelope // of the whole letter; not to be kept
	Recipient string
	Waive     []string // of Letter
	// Ahead is what is on its way into a domain's queue and not there yet; placed says that this letter has a place there already,
	// and so takes no other.
	Ahead func(domain string) (n queue.Counts, placed bool)
}

// Gate decides whether mail that is brought in is taken: as it is decided about mail that arrives. Its methods may be called from
// several goroutines, and may block.
type Gate interface {
	// Admit says in whose queue mail for the recipient belongs, lower-case A-labels, or why it is not taken.
	Admit(a *Asked) (domain string, refusal *mail.Refusal)
	// Imported is told of each message that has come in, by its envelopes. They must not be kept.
	Imported(envelopes []mail.Envelope)
}

// Intake brings mail in that has been held elsewhere. A request to /import/ask is a line of JSON for each Letter, and
// its answer a line for each, in order. A request to /import is a sequence of frames, each a kind (one octet), a length (four octets,
// big-endian) and so many octets:
//
//	L   a Letter in JSON
//	D   a piece of its content: lines that end in CRLF, not dot-stuffed
//	E   empty: the end of the letter
//	X   empty: the letter is given up, before it or within it; it gets no answer
//
// The answers come as the letters become durable, and not in their order: N tells which. All recipients of a letter that are
// taken come in in one step, and with them their stamps, so that an answer that is lost can be asked for again. Places in line are
// given in the order of the letters. Any other error ends the whole import; what was answered stays.
type Intake struct {
	Store interface {
		Begin(size int64) (queue.Incoming, error)
		Stamped(stamps []queue.Stamp) ([]bool, error)
	}
	Gate Gate

	running sync.Mutex // guards imports
	imports int

	coming coming

	Stall time.Duration // how long a client may send nothing; 0: ten minutes
}

// Kinds of frames.
const (
	frameLetter = 'L'
	frameData   = 'D'
	frameEnd    = 'E'
	frameGiveUp = 'X'
)

// frameHead is the length of a frame without its octets.
const frameHead = 1 + 4

// maxPiece is the most octets of content in one frame.
const maxPiece = 64 << 10

// enter counts an import, and says whether there is room for one.
func (t *Intake) enter() error {
	if t == nil {
		return ErrNoImport
	}
	t.running.Lock()
	defer t.running.Unlock()
	if t.imports == maxImports {
		return fmt.Errorf("%w: %d imports are under way", ErrNoImport, maxImports)
	}
	t.imports++
	return nil
}

// serve has do read a request and answer it meanwhile.
func (t *Intake) serve(w http.ResponseWriter, r *http.Request, do func(io.Reader, *answer) error) {
	a, control := newAnswer(w), http.NewResponseController(w)
	err := control.EnableFullDuplex()
	if err == nil {
		err = t.run(&steady{in: r.Body, control: control}, a, do)
	}
	a.end(err)
	if err == nil {
		return
	}
	a.flush()
	_ = control.SetReadDeadline(time.Now().Add(importRest))
	_, _ = io.Copy(io.Discard, r.Body)
	// Left to net/http the end of the body would be found too late, and the connection would end in a panic instead of with the answer: Go issue 68560.
	r.Body.Close()
}

// run has do read in and answer, if there is room for one import more. There is room again before the client can read how it ended:
// it may begin anew at once.
func (t *Intake) run(in *steady, a *answer, do func(io.Reader, *answer) error) error {
	if err := t.enter(); err != nil {
		return err
	}
	defer t.leave()
	in.stall = cmp.Or(t.Stall, importStall)
	err := do(in, a)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: nothing came for %v", ErrStill, in.stall)
	}
	return err
}

// steady reads a request that must not stand still.
type steady struct {
	in      io.Reader
	control *http.ResponseController
	stall   time.Duration
}

// Read implements io.Reader.
func (s *steady) Read(p []byte) (int, error) {
	if err := s.control.SetReadDeadline(time.Now().Add(s.stall)); err != nil {
		return 0, err
	}
	return s.in.Read(p)
}

func (t *Intake) leave() {
	t.running.Lock()
	defer t.running.Unlock()
	t.imports--
}

// ask answers what would become of letters.
func (t *Intake) ask(in io.Reader, a *answer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLetter)
	for n := 0; lines.Scan(); n++ {
		in, err := readLetter(lines.Bytes())
		if err != nil {
			return fmt.Errorf("%w: letter %d: %w", errRequest, n, err)
		}
		p, err := t.plan(in, nil)
		if err != nil {
			return err
		}
		p.answer.N = n
		if !a.send(line{Answer: &p.answer}) {
			return a.err
		}
	}
	return lines.Err()
}

func readLetter(text []byte) (*arrival, error) {
	var l Letter
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	return l.read()
}

// plan is what shall become of a letter.
type plan struct {
	answer    Answer
	envelopes []mail.Envelope // of the recipients that are to be taken, by domain
	stamps    []queue.Stamp   // theirs: each has as many
	each      int
	behind    []string   // domains into which mail was coming that some recipient is refused for, by a quota
	coming    []arriving // what it was counted for, see Intake.admit
}

// ahead is Asked.Ahead for a recipient of the letter: what is coming, and its own for other recipients. It notes in met for which domains
// something is.
func (p *plan) ahead(coming map[string]queue.Counts, size int64, met *[]string) func(string) (queue.Counts, bool) {
	return func(domain string) (n queue.Counts, placed bool) {
		if n = coming[domain]; n.Messages > 0 {
			*met = append(*met, domain)
		}
		if placed = p.at(domain) >= 0; placed {
			n.Messages, n.Bytes = n.Messages+1, n.Bytes+size
		}
		return n, placed
	}
}

// at is where domain's envelope is, or -1.
func (p *plan) at(domain string) int {
	return slices.IndexFunc(p.envelopes, func(e mail.Envelope) bool { return e.Domain == domain })
}

// plan asks about each recipient; coming is what is on its way into queues.
func (t *Intake) plan(in *arrival, coming map[string]queue.Counts) (*plan, error) {
	there, err := t.Store.Stamped(in.stamps)
	if err != nil {
		return nil, err
	}
	also, err := t.Store.Stamped(in.also)
	if err != nil {
		return nil, err
	}
	p := &plan{answer: Answer{Recipients: make([]Verdict, len(there))}, each: 1 + min(len(also), 1)}
	for i := range there {
		v := &p.answer.Recipients[i]
		if there[i] || len(also) > 0 && also[i] || slices.Contains(in.stamps[:i], in.stamps[i]) { // a recipient may be named twice
			v.Verdict = Here
			continue
		}
		rcpt := in.env.Recipients[i]
		var met []string
		ask := Asked{Envelope: &in.env, Recipient: rcpt.Address, Waive: in.waive, Ahead: p.ahead(coming, in.env.Size, &met)}
		domain, refusal := t.Gate.Admit(&ask)
		if refusal != nil && (refusal.Enhanced == "4.2.2" || refusal.Enhanced == "5.2.2") { // RFC 3463 3.3
			p.behind = append(p.behind, met...)
		}
		if refusal != nil {
			v.Verdict, v.Reason = Refused, fmt.Sprintf("%d %s %s", refusal.Code, refusal.Enhanced, refusal.Error())
			continue
		}
		v.Verdict = Taken
		p.add(&in.env, domain, rcpt)
		p.stamps = append(p.stamps, in.stamps[i])
		if len(also) > 0 {
			p.stamps = append(p.stamps, in.also[i])
		}
	}
	return p, nil
}

// add puts a recipient into the envelope of its domain.
func (p *plan) add(v *mail.Envelope, domain string, rcpt mail.Recipient) {
	i := p.at(domain)
	if i < 0 {
		i = len(p.envelopes)
		p.envelopes = append(p.envelopes, *v)
		p.envelopes[i].Domain, p.envelopes[i].Recipients = domain, nil
	}
	p.envelopes[i].Recipients = append(p.envelopes[i].Recipients, rcpt)
}

// refuse answers for all recipients that were to be taken.
func (p *plan) refuse(reason string) {
	for i := range p.answer.Recipients {
		if v := &p.answer.Recipients[i]; v.Verdict == Taken {
			v.Verdict, v.Reason = Refused, reason
		}
	}
}

// take brings letters in.
func (t *Intake) take(in io.Reader, a *answer) (err error) {
	i := &importing{intake: t, in: bufio.NewReaderSize(in, maxPiece+frameHead), out: a, answers: make(chan *brought, importWindow)}
	i.slots = make(chan struct{}, importWindow)
	var answering sync.WaitGroup
	answering.Go(i.answer)
	for n := 0; err == nil; n++ {
		err = i.letter(n)
	}
	close(i.answers) // all letters have been answered by then: see letter
	answering.Wait()
	if errors.Is(err, io.EOF) {
		err = i.failed
	}
	return err
}

// importing is one import. Letters are read by one goroutine and answered by another.
type importing struct {
	intake  *Intake
	in      *bufio.Reader
	out     *answer
	slots   chan struct{} // taken by each letter on its way
	answers chan *brought // never full: each has a slot
	failed  error         // the store's, once answers is closed
	head    []byte
}

// brought is a letter whose fate is known.
type brought struct {
	to   *importing
	plan *plan

	err error
}

// Committed implements queue.Waiter.
func (b *brought) Committed(err error) {
	b.err = err
	b.to.answers <- b
}

// frame reads the head of the next frame.
func (i *importing) frame() (kind byte, size int, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(i.in, head[:]); err != nil {
		return 0, 0, err // io.EOF where a frame might begin
	}
	return head[0], int(binary.BigEndian.Uint32(head[1:])), nil
}

// letter reads one letter and hands it on. io.EOF is the end of the import. When it returns an error there is no letter on
// its way any more.
func (i *importing) letter(n int) (err error) {
	i.slots <- struct{}{}
	handed := false
	defer func() {
		if !handed {
			<-i.slots
		}
		if err != nil {
			for range importWindow {
				i.slots <- struct{}{}
			}
		}
	}()
	kind, size, err := i.frame()
	if err != nil {
		return err
	}
	if kind == frameGiveUp && size == 0 {
		return nil
	}
	if kind != frameLetter || size > maxLetter {
		return fmt.Errorf("%w: a frame %q of %d octets where a letter was expected", errRequest, kind, size)
	}
	i.head = slices.Grow(i.head[:0], size)[:size]
	if _, err := io.ReadFull(i.in, i.head); err != nil {
		return broken(err)
	}
	in, err := readLetter(i.head)
	if err != nil {
		return fmt.Errorf("%w: letter %d: %w", errRequest, n, err)
	}
	p, err := i.intake.admit(in)
	if err != nil {
		return err
	}
	defer func() {
		if !handed {
			i.intake.coming.end(p.coming)
		}
	}()
	p.answer.N = n
	c := &content{sum: sha256.New(), want: in}
	if len(p.envelopes) > 0 {
		if c.store, err = i.intake.Store.Begin(in.env.Size); err != nil {
			return err
		}
		c.store.Once(p.stamps)
	}
	given, err := i.content(c)
	if given || err != nil {
		c.abort()
		return err
	}
	handed = true
	i.hand(p, c)
	return nil
}

func broken(err error) error { return fmt.Errorf("%w: it breaks off: %w", errRequest, err) }

// content reads the frames of a letter's content; given says that it was given up.
func (i *importing) content(c *content) (given bool, err error) {
	piece := make([]byte, 0, maxPiece)
	for {
		kind, size, err := i.frame()
		switch {
		case err != nil:
			return false, broken(err)
		case kind == frameEnd && size == 0:
			return false, nil
		case kind == frameGiveUp && size == 0:
			return true, nil
		case kind != frameData || size > maxPiece:
			return false, fmt.Errorf("%w: a frame %q of %d octets within a letter", errRequest, kind, size)
		}
		piece = piece[:size]
		if _, err := io.ReadFull(i.in, piece); err != nil {
			return false, broken(err)
		}
		if err := c.add(piece); err != nil {
			return false, err
		}
	}
}

// hand commits what is to be taken, or answers at once.
func (i *importing) hand(p *plan, c *content) {
	b := &brought{to: i, plan: p}
	if refusal := c.verdict(); refusal != "" {
		p.refuse(refusal)
		p.envelopes = nil
	}
	if len(p.envelopes) == 0 {
		c.abort()
		i.answers <- b
		return
	}
	p.answer.ID = c.store.ID().String()
	for e := range p.envelopes {
		v := &p.envelopes[e]
		v.Size, v.WireSize = c.size, c.size+c.stuff.Stuffing
		v.Stuffed, v.EightBit = c.stuff.Stuffed, c.stuff.EightBit
	}
	c.store.Submit(c.wire, p.envelopes, b)
}

// answer writes the answers. A letter that another import brought in at the same moment is found to be here.
func (i *importing) answer() {
	for b := range i.answers {
		err := b.err
		switch {
		case errors.Is(err, queue.ErrStamped):
			b.plan.answer.ID = ""
			err = i.again(b.plan)
		case err == nil && len(b.plan.envelopes) > 0:
			i.intake.Gate.Imported(b.plan.envelopes)
		}
		if err != nil && i.failed == nil {
			i.failed = err
			f, _ := newFailure(err)
			i.out.send(line{Error: f})
			i.out.flush()
		}
		if i.failed == nil {
			i.out.send(line{Answer: &b.plan.answer})
			if len(i.answers) == 0 {
				i.out.flush()
			}
		}
		i.intake.coming.end(b.plan.coming)
		<-i.slots
	}
}

// again looks at the stamps of a letter that did not come in because one was there.
func (i *importing) again(p *plan) error {
	there, err := i.intake.Store.Stamped(p.stamps)
	if err != nil {
		return err
	}
	for r := range p.answer.Recipients {
		v := &p.answer.Recipients[r]
		if v.Verdict != Taken {
			continue
		}
		if v.Verdict = Here; !slices.Contains(there[:p.each], true) {
			v.Verdict, v.Reason = Refused, "451 4.3.0 Another import brought in a part of this message at the same moment; run it again"
		}
		there = there[p.each:]
	}
	return nil
}

// content is a letter's content on its way in.
type content struct {
	store  queue.Incoming // nil: nobody takes it
	want   *arrival
	sum    hash.Hash
	size   int64
	wire   []byte // wire form, not yet handed to the store
	stuff  codec.Stuffer
	header codec.HeaderScanner
}

func (c *content) add(piece []byte) error {
	c.sum.Write(piece)
	c.size += int64(len(piece))
	if c.store == nil || c.size > c.want.env.Size { // verdict says so
		return nil
	}
	before := len(c.wire)
	c.wire = c.stuff.Append(c.wire, piece)
	c.header.Write(c.wire[before:])
	for len(c.wire) > mail.ChunkSize {
		if err := c.store.Append(c.wire[:mail.ChunkSize]); err != nil {
			return err
		}
		c.wire = c.wire[:copy(c.wire, c.wire[mail.ChunkSize:])]
	}
	return nil
}

// verdict says why the content is refused, or "": for the reasons for which a listener would, and if it is not what was announced.
func (c *content) verdict() string {
	seen := &c.stuff.Content
	switch {
	case c.size != c.want.env.Size || [32]byte(c.sum.Sum(nil)) != c.want.content:
		return "451 4.3.0 The content is not what was announced: it was changed while it was read"
	case c.store == nil:
		return ""
	case c.header.Received > mail.MaxReceived:
		return "554 5.4.6 Too many Received fields: a mail loop"
	case seen.BareLF:
		return "554 5.6.0 A line feed without carriage return is in the content"
	case seen.BareCR:
		return "554 5.6.0 A carriage return without line feed is in the content"
	case seen.NUL:
		return "554 5.6.0 A NUL octet is in the content"
	case !c.stuff.EndsLine():
		return "554 5.6.0 The last line has no end"
	}
	return ""
}

func (c *content) abort() {
	if c.store != nil {
		c.store.Abort()
	}
}
