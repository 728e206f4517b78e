package session

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"odmr/internal/mail"
)

// scenarioEpoch is when every scenario begins: Fri, 02 Jan 2026 03:04:05 UTC.
var scenarioEpoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()

// scenarioDriver performs a machine's actions on paper and checks the contract of package
// session at every call: what a real driver relies on.
type scenarioDriver struct {
	*transcript
	t      *testing.T
	where  string
	sc     *scenario
	m      Session
	now    Time
	out    Output
	late   bool
	unread []byte
	closed bool // ActClose or ActTurn was seen
	ended  bool
	// released: ActRelease was seen, and no ActAcquire since
	released bool
	tickets  map[uint32]bool
	pending  []pendingAction
	answers  []string            // of R lines, not given yet
	next     map[string][]string // of NEXT lines, by kind
	auto     map[string]string
	items    map[uint32]*mail.Envelope
	body     []byte // appended since the last ActBegin
	lastID   mail.ID
}

// pendingAction is an action that waits for its completion, with what it lends to the driver.
type pendingAction struct {
	act  Action
	data []byte // copy of act.Data, to see that the machine leaves it alone
}

// transcript is what a machine did in one step.
type transcript struct {
	stream []streamPart
	acts   []string
	detail map[int][]string // lines that follow acts[i]
}

// streamPart is a run of octets or an action that stands among them.
type streamPart struct {
	octets []byte
	act    string
}

func (tr *transcript) write(b []byte) {
	if len(b) == 0 {
		return
	}
	if n := len(tr.stream); n == 0 || tr.stream[n-1].act != "" {
		tr.stream = append(tr.stream, streamPart{})
	}
	p := &tr.stream[len(tr.stream)-1]
	p.octets = append(p.octets, b...)
}

func (tr *transcript) lines() []string {
	var l []string
	for _, p := range tr.stream {
		if p.act != "" {
			l = append(l, "A: "+p.act)
			continue
		}
		b := p.octets
		for len(b) > 0 {
			i := bytes.Index(b, []byte("\r\n"))
			if i < 0 {
				l = append(l, "s: "+escape(b))
				break
			}
			l = append(l, strings.TrimRight("S: "+escape(b[:i]), " "))
			b = b[i+2:]
		}
	}
	l = foldLines(l)
	for i, a := range tr.acts {
		l = append(l, "A: "+a)
		l = append(l, tr.detail[i]...)
	}
	return foldLines(l)
}

// foldLines writes four and more equal lines as one with a count.
func foldLines(in []string) []string {
	var out []string
	for i := 0; i < len(in); {
		j := i
		for j < len(in) && in[j] == in[i] {
			j++
		}
		if j-i >= 4 && in[i][1] == ':' {
			out = append(out, fmt.Sprintf("%c*%d%s", in[i][0], j-i, in[i][1:]))
		} else {
			out = append(out, in[i:j]...)
		}
		i = j
	}
	return out
}

func mergeTranscripts(all []*transcript) *transcript {
	m := &transcript{detail: map[int][]string{}}
	for _, tr := range all {
		for _, p := range tr.stream {
			m.write(p.octets)
			if p.act != "" {
				m.stream = append(m.stream, p)
			}
		}
		for i, a := range tr.acts {
			m.detail[len(m.acts)] = tr.detail[i]
			m.acts = append(m.acts, a)
		}
	}
	return m
}

func newScenarioDriver(t *testing.T, sc *scenario, m Session) *scenarioDriver {
	h := &scenarioDriver{
		transcript: &transcript{},
		t:          t, where: sc.path, sc: sc, m: m, now: scenarioEpoch,
		tickets: map[uint32]bool{0: true},
		next:    map[string][]string{},
		auto:    map[string]string{},
		items:   map[uint32]*mail.Envelope{},
	}
	for _, kv := range sc.config {
		switch kv[0] {
		case "auto":
			for _, f := range strings.Fields(kv[1]) {
				kind, arg, _ := strings.Cut(f, "=")
				h.auto[kind] = arg
			}
		case "item":
			handle, env := scenarioItem(t, sc.path, kv[1])
			h.items[handle] = env
		}
	}
	return h
}

// call runs one call of the machine and performs what it wants.
func (h *scenarioDriver) call(f func()) {
	h.t.Helper()
	h.out.Reset()
	f()
	h.checkLent()
	h.perform()
	if d := h.m.Deadline(); !h.closed && d <= h.now {
		h.t.Fatalf("%s: Deadline %v is not in the future", h.where, time.Duration(d-h.now))
	}
}

// checkLent fails if the machine touched what an unfinished action lends to the driver: its
// first and last octets after each call, all of it at its completion.
func (h *scenarioDriver) checkLent() {
	for _, p := range h.pending {
		n := min(len(p.data), 256)
		if len(p.act.Data) != len(p.data) || !bytes.Equal(p.act.Data[:n], p.data[:n]) ||
			!bytes.Equal(p.act.Data[len(p.data)-n:], p.data[len(p.data)-n:]) {
			h.t.Fatalf("%s: Data of ticket %d was changed before its Done", h.where, p.act.Ticket)
		}
	}
}

// pump hands over what is unread, and what is answered at once, until nothing moves.
func (h *scenarioDriver) pump() {
	for {
		moved := false
		if len(h.unread) > 0 && !h.closed {
			lent := bytes.Clone(h.unread[:min(len(h.unread), 16<<10)]) // a driver reads so much at once
			n := 0
			h.call(func() { n = h.m.Input(h.now, lent, &h.out) })
			for i := range lent { // slices handed over are valid during the call only
				lent[i] = 0xAA
			}
			if n < 0 || n > len(lent) {
				h.t.Fatalf("%s: Input returned %d of %d", h.where, n, len(lent))
			}
			h.unread = h.unread[n:]
			moved = n > 0
		}
		if !h.late && h.answerAuto() {
			moved = true
		}
		if !moved {
			return
		}
	}
}

// settle gives the answers that are there, and what follows from them.
func (h *scenarioDriver) settle() {
	for {
		h.pump()
		if h.answerAuto() {
			continue
		}
		if len(h.answers) == 0 || h.closed && !strings.HasPrefix(h.answers[0], "#") {
			return
		}
		a := h.answers[0]
		i := 0
		if strings.HasPrefix(a, "#") {
			num, rest, _ := strings.Cut(a[1:], " ")
			ticket, err := strconv.ParseUint(num, 10, 32)
			if err != nil {
				h.t.Fatalf("%s: %v", h.where, err)
			}
			a = rest
			if ticket == 0 { // the TLS handshake is complete
				h.answers = h.answers[1:]
				h.call(func() { h.m.Done(h.now, 0, &Result{}, &h.out) })
				continue
			}
			for i < len(h.pending) && h.pending[i].act.Ticket != uint32(ticket) {
				i++
			}
		}
		if i >= len(h.pending) {
			return
		}
		h.answers = h.answers[1:]
		h.complete(i, a)
	}
}

// answerAuto completes one action that the scenario answers by itself.
func (h *scenarioDriver) answerAuto() bool {
	for i, p := range h.pending {
		kind := kindName(p.act.Kind)
		if q := h.next[kind]; len(q) > 0 {
			h.next[kind] = q[1:]
			h.complete(i, q[0])
			return true
		}
		held, ok := h.auto[kind]
		if !ok {
			continue
		}
		if p.act.Kind == ActRoute && held != "" && !contains(strings.Split(held, ","), p.act.Domain) {
			h.complete(i, "refuse 550 5.1.2 no mail for this domain is held here")
			return true
		}
		h.complete(i, "ok")
		return true
	}
	return false
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// complete gives answer as the outcome of the i-th pending action.
func (h *scenarioDriver) complete(i int, answer string) {
	p := h.pending[i]
	r := h.result(p.act, answer)
	if !bytes.Equal(p.act.Data, p.data) {
		h.t.Fatalf("%s: Data of ticket %d was changed before its Done", h.where, p.act.Ticket)
	}
	h.pending = append(h.pending[:i:i], h.pending[i+1:]...)
	h.call(func() { h.m.Done(h.now, p.act.Ticket, r, &h.out) })
	*r = Result{Account: "stale", Domain: "stale", Refusal: &mail.Refusal{Code: 599, Text: "stale"}}
}

func (h *scenarioDriver) result(act Action, answer string) *Result {
	verb, rest, _ := strings.Cut(answer, " ")
	r := &Result{}
	switch verb {
	case "refuse":
		f := strings.SplitN(rest, " ", 3)
		code, err := strconv.Atoi(f[0])
		if err != nil || len(f) < 2 {
			h.t.Fatalf("%s: bad completion %q", h.where, answer)
		}
		r.Refusal = &mail.Refusal{Code: code, Enhanced: strings.TrimPrefix(f[1], "-")}
		if len(f) == 3 {
			r.Refusal.Text = f[2]
		}
	case "challenge":
		b, err := unescape(rest)
		if err != nil {
			h.t.Fatalf("%s: %v", h.where, err)
		}
		r.Challenge = b
	case "auth":
		r.AuthDone, r.Account = true, rest
	case "items":
		for _, f := range strings.Fields(rest) {
			n, _ := strconv.Atoi(f)
			env := h.items[uint32(n)]
			if env == nil {
				h.t.Fatalf("%s: no item %s in the header", h.where, f)
			}
			r.Items = append(r.Items, Item{Handle: uint32(n), Envelope: env})
		}
	case "ok":
		h.okResult(act, r, rest)
	default:
		h.t.Fatalf("%s: bad completion %q", h.where, answer)
	}
	return r
}

func (h *scenarioDriver) okResult(act Action, r *Result, keys string) {
	if act.Kind == ActBegin {
		h.lastID++
		r.ID = h.lastID
	}
	for _, f := range strings.Fields(keys) {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case "id":
			n, _ := strconv.ParseUint(v, 10, 64)
			r.ID = mail.ID(n)
			h.lastID = r.ID
		case "domain":
			r.Domain = v
		case "each":
			r.Each = v == "yes"
		case "domains":
			r.Domains = strings.Split(v, ",")
		case "wait":
			r.Wait, _ = time.ParseDuration(v)
		case "waiting":
			r.Waiting, _ = strconv.ParseInt(v, 10, 64)
		default:
			h.t.Fatalf("%s: unknown key in %q", h.where, keys)
		}
	}
}

// pass lets time go by.
func (h *scenarioDriver) pass(d time.Duration) {
	target := h.now + int64(d)
	for n := 0; !h.closed && h.m.Deadline() <= target; n++ {
		if n > 1000 {
			h.t.Fatalf("%s: Tick never moves Deadline", h.where)
		}
		h.now = h.m.Deadline()
		h.call(func() { h.m.Tick(h.now, &h.out) })
		h.pump()
	}
	h.now = target
}

func (h *scenarioDriver) end() {
	if h.ended {
		return
	}
	h.ended = true
	h.out.Reset()
	h.m.End(h.now, &h.out)
	if len(h.out.Reply) > 0 {
		h.t.Fatalf("%s: End replied %q", h.where, h.out.Reply)
	}
	for _, a := range h.out.Acts {
		if a.Kind != ActSettle && a.Kind != ActDiscard {
			h.t.Fatalf("%s: End asked for %s", h.where, kindName(a.Kind))
		}
		h.note(&a)
	}
	h.closed = true
}

// perform writes down what the machine wants and checks that the contract allows it.
func (h *scenarioDriver) perform() {
	h.t.Helper()
	at := 0
	if h.closed && len(h.out.Reply)+len(h.out.Acts) > 0 {
		h.t.Fatalf("%s: the machine goes on after its last action: %q", h.where, h.out.Reply)
	}
	for i := range h.out.Acts {
		a := &h.out.Acts[i]
		if h.closed {
			h.t.Fatalf("%s: %s after the last action", h.where, kindName(a.Kind))
		}
		if isStream(a.Kind) {
			if a.At < at || a.At > len(h.out.Reply) {
				h.t.Fatalf("%s: %s at %d, %d came before, Reply has %d", h.where, kindName(a.Kind), a.At, at, len(h.out.Reply))
			}
			h.write(h.out.Reply[at:a.At])
			at = a.At
		}
		if hasTicket(a.Kind) {
			if h.tickets[a.Ticket] {
				h.t.Fatalf("%s: ticket %d of %s was used before", h.where, a.Ticket, kindName(a.Kind))
			}
			h.tickets[a.Ticket] = true
			h.pending = append(h.pending, pendingAction{act: *a, data: bytes.Clone(a.Data)})
		} else if a.Ticket != 0 {
			h.t.Fatalf("%s: %s has a ticket", h.where, kindName(a.Kind))
		}
		h.checkLease(a)
		h.closed = a.Kind == ActClose || a.Kind == ActTurn
		h.note(a)
	}
	if h.closed && at < len(h.out.Reply) {
		h.t.Fatalf("%s: Reply goes on after the last action: %q", h.where, h.out.Reply[at:])
	}
	h.write(h.out.Reply[at:])
}

// checkLease holds the machine to what ActAwait and ActRelease say, and forgets what has no Done any more.
func (h *scenarioDriver) checkLease(a *Action) {
	h.t.Helper()
	switch a.Kind {
	case ActAcquire:
		h.released = false
	case ActAwait, ActPrefetch, ActSettle, ActBody:
		if h.released {
			h.t.Fatalf("%s: %s after the lease was given back", h.where, kindName(a.Kind))
		}
		for _, p := range h.pending {
			if k := p.act.Kind; p.act.Ticket != a.Ticket && (k == ActAwait || a.Kind == ActAwait && (k == ActPrefetch || k == ActSettle)) {
				h.t.Fatalf("%s: %s while %s is in flight", h.where, kindName(a.Kind), kindName(k))
			}
		}
	case ActRelease:
		if h.released {
			h.t.Fatalf("%s: the lease is given back twice", h.where)
		}
		h.released = true
		h.pending = slices.DeleteFunc(h.pending, func(p pendingAction) bool { return p.act.Kind != ActSettle })
	}
}

func isStream(k Kind) bool {
	return k == ActBody || k == ActTurn || k == ActStartTLS || k == ActClose
}

func hasTicket(k Kind) bool {
	switch k {
	case ActDiscard, ActAuthAbort, ActStartTLS, ActTurn, ActBody, ActUnload, ActAlarm, ActRelease, ActClose:
		return false
	}
	return true
}

var kindNames = map[Kind]string{
	ActBegin: "begin", ActRoute: "route", ActAppend: "append", ActCommit: "commit", ActDiscard: "discard",
	ActAuth: "auth", ActAuthAbort: "auth-abort", ActAcquire: "acquire", ActStartTLS: "starttls", ActTurn: "turn",
	ActPrefetch: "prefetch", ActBody: "body", ActSettle: "settle", ActUnload: "unload", ActAlarm: "alarm",
	ActAwait: "await", ActRelease: "release", ActClose: "close",
}

func kindName(k Kind) string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind-%d", k)
}

// note writes one action down.
func (h *scenarioDriver) note(a *Action) {
	s := kindName(a.Kind)
	if _, show := h.sc.value("tickets"); show && a.Ticket != 0 {
		s += fmt.Sprintf(" #%d", a.Ticket)
	}
	var detail []string
	switch a.Kind {
	case ActBegin:
		h.body = h.body[:0]
		s += fmt.Sprintf(" size=%d", a.Size)
	case ActRoute:
		s += " domain=" + escape([]byte(a.Domain))
	case ActAppend:
		h.body = append(h.body, a.Data...)
		s += fmt.Sprintf(" size=%d", len(a.Data))
		if len(a.Data) != mail.ChunkSize {
			h.t.Errorf("%s: appended %d octets, not a chunk", h.where, len(a.Data))
		}
	case ActCommit:
		h.body = append(h.body, a.Data...)
		s += fmt.Sprintf(" size=%d", len(h.body))
		detail = append(detail, describeEnvelopes(a.Envelopes)...)
		detail = append(detail, describeBody(h.body)...)
		h.checkCommit(a)
	case ActAuth:
		if a.Mechanism != "" {
			s += " mechanism=" + a.Mechanism
		}
		if a.HasData {
			s += fmt.Sprintf(" data=%q", a.Data)
		}
	case ActAcquire:
		s += " domains=" + strings.Join(a.Domains, ",")
	case ActPrefetch:
		s += fmt.Sprintf(" messages=%d size=%d", a.Messages, a.Size)
	case ActBody:
		s += fmt.Sprintf(" item=%d", a.Item)
		if a.Plain {
			s += " plain"
		}
	case ActSettle:
		s += fmt.Sprintf(" item=%d", a.Item)
		if a.InDoubt {
			s += " in-doubt"
		}
		for _, o := range a.Outcomes {
			s += " " + [...]string{"delivered", "deferred", "failed", "held", "untouched"}[o.Status]
			if o.Relayed {
				s += ",relayed"
			}
			if o.Reply != "" {
				s += fmt.Sprintf("=%q", o.Reply)
			}
		}
	case ActUnload:
		s += fmt.Sprintf(" item=%d", a.Item)
	case ActAlarm, ActClose:
		s += fmt.Sprintf(" reason=%q", a.Reason)
	}
	if isStream(a.Kind) {
		h.stream = append(h.stream, streamPart{act: s})
		return
	}
	if detail != nil {
		if h.detail == nil {
			h.detail = map[int][]string{}
		}
		h.detail[len(h.acts)] = detail
	}
	h.acts = append(h.acts, s)
}

func describeEnvelopes(envs []mail.Envelope) (l []string) {
	for i := range envs {
		e := &envs[i]
		s := fmt.Sprintf("E: %s from=<%s>", e.Domain, escape([]byte(e.ReversePath)))
		for _, r := range e.Recipients {
			s += fmt.Sprintf(" to=<%s>", escape([]byte(r.Address)))
			if r.Notify != 0 {
				s += fmt.Sprintf(";notify=%d", r.Notify)
			}
			if r.ORcpt != "" {
				s += ";orcpt=" + r.ORcpt
			}
		}
		s += fmt.Sprintf(" size=%d wire=%d", e.Size, e.WireSize)
		for _, flag := range []struct {
			on   bool
			name string
		}{
			{e.Stuffed, " stuffed"}, {e.EightBit, " 8bit"}, {e.Body == mail.Body8BitMIME, " body=8bitmime"}, {e.SMTPUTF8, " utf8"},
			{e.Ret == mail.ReturnFull, " ret=full"}, {e.Ret == mail.ReturnHeaders, " ret=hdrs"},
			{e.EnvID != "", " envid=" + e.EnvID}, {e.Client != "", " client=" + e.Client},
			{e.Origin != nil, " origin=" + originText(e.Origin)},
		} {
			if flag.on {
				s += flag.name
			}
		}
		l = append(l, s)
	}
	return l
}

// originText joins o's values, in the order of codec.XAttr, by commas.
func originText(o *mail.Origin) string {
	if o == nil {
		return ""
	}
	var values []string
	for _, v := range originValues(o) {
		values = append(values, *v)
	}
	return strings.Join(values, ",")
}

func describeBody(b []byte) (l []string) {
	if len(b) > 2000 {
		return []string{fmt.Sprintf("B: (%d octets, crc %08x)", len(b), crc32.ChecksumIEEE(b))}
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(b), "\r\n"), "\r\n") {
		l = append(l, strings.TrimRight("B: "+escape([]byte(line)), " "))
	}
	return foldLines(l)
}

// checkCommit recomputes what the envelopes say about the body.
func (h *scenarioDriver) checkCommit(a *Action) {
	body := h.body
	stuffed, eight := int64(0), false
	if !bytes.HasSuffix(body, []byte("\r\n")) {
		h.t.Errorf("%s: body does not end in CRLF", h.where)
	}
	for _, line := range bytes.SplitAfter(body, []byte("\r\n")) {
		if bytes.HasPrefix(line, []byte(".")) {
			stuffed++
			if bytes.Equal(line, []byte(".\r\n")) {
				h.t.Errorf("%s: body holds a final dot", h.where)
			}
		}
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		if bytes.ContainsAny(line, "\r\n\x00") {
			h.t.Errorf("%s: body holds bare CR, bare LF or NUL: %q", h.where, line)
		}
		for _, c := range line {
			eight = eight || c >= 0x80
		}
	}
	if len(a.Envelopes) == 0 {
		h.t.Errorf("%s: commit without an envelope", h.where)
	}
	for i := range a.Envelopes {
		e := &a.Envelopes[i]
		if e.WireSize != int64(len(body)) || e.Size != e.WireSize-stuffed || e.Stuffed != (stuffed > 0) || e.EightBit != eight {
			h.t.Errorf("%s: envelope says size=%d wire=%d stuffed=%v 8bit=%v; body has wire=%d, %d dots, 8bit=%v",
				h.where, e.Size, e.WireSize, e.Stuffed, e.EightBit, len(body), stuffed, eight)
		}
		if len(e.Recipients) == 0 || e.Arrived != h.now {
			h.t.Errorf("%s: envelope %s has %d recipients, arrived %d", h.where, e.Domain, len(e.Recipients), e.Arrived)
		}
	}
}

// scenarioItem reads "1 from=<a@b> to=<c@d>;notify=5;orcpt=rfc822;c@d to=<e@f>;state=failed domain=d size=10 wire=11
// 8bit body=8bitmime utf8 ret=full ret=hdrs envid=X origin=name,addr,port,proto,helo,ident,source in-doubt".
func scenarioItem(t *testing.T, where, text string) (uint32, *mail.Envelope) {
	f := strings.Fields(text)
	handle, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		t.Fatalf("%s: item: %v", where, err)
	}
	e := &mail.Envelope{ID: mail.ID(handle), Size: 100}
	for _, kv := range f[1:] {
		k, v, _ := strings.Cut(kv, "=")
		num := func() int64 {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatalf("%s: item %d: %s: %v", where, handle, kv, err)
			}
			return n
		}
		switch k {
		case "from":
			e.ReversePath = strings.Trim(v, "<>")
		case "to":
			e.Recipients = append(e.Recipients, scenarioRecipient(v))
		case "domain":
			e.Domain = v
		case "size":
			e.Size = num()
		case "wire":
			e.WireSize = num()
		case "8bit":
			e.EightBit = true
		case "body":
			e.Body = mail.Body8BitMIME
		case "utf8":
			e.SMTPUTF8 = true
		case "ret":
			e.Ret = map[string]mail.Return{"full": mail.ReturnFull, "hdrs": mail.ReturnHeaders}[v]
		case "envid":
			e.EnvID = v
		case "origin":
			e.Origin = new(mail.Origin)
			for a, text := range strings.Split(v, ",") {
				*originValues(e.Origin)[a] = text
			}
		case "in-doubt":
			e.InDoubt = true
		default:
			t.Fatalf("%s: item %d: unknown %q", where, handle, kv)
		}
	}
	e.WireSize = max(e.WireSize, e.Size)
	e.Stuffed = e.WireSize > e.Size
	return uint32(handle), e
}

func scenarioRecipient(v string) mail.Recipient {
	addr, rest, _ := strings.Cut(v, ">")
	r := mail.Recipient{Address: strings.TrimPrefix(addr, "<")}
	rest = strings.TrimPrefix(rest, ";")
	rest, r.ORcpt, _ = strings.Cut(rest, "orcpt=") // last, for it holds a semicolon itself
	for _, p := range strings.Split(rest, ";") {
		k, v, _ := strings.Cut(p, "=")
		switch k {
		case "notify":
			n, _ := strconv.Atoi(v)
			r.Notify = mail.Notify(n)
		case "state":
			r.State = map[string]mail.RecipientState{"delivered": mail.Delivered, "failed": mail.Failed, "held": mail.Held}[v]
		}
	}
	return r
}
